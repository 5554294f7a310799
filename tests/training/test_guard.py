import copy
import math
import re

import pyro
import pytest
import torch
from torch import nn

from pyro_vae import Trainer, guides, infer, likelihoods
from pyro_vae.models import VAE
from pyro_vae.training.guard import Guard, Skip, limit_of

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
OUTLIER = X.clone()
OUTLIER[17, 2] = 1e30


def trainer(decoder=None, norm=nn.BatchNorm1d, sigma="optimal", **options):
    torch.manual_seed(0)
    likelihood = likelihoods.Gaussian(sigma)
    vae = VAE((6,), 2, likelihood=likelihood, hidden=(8,), norm=norm, decoder=decoder)
    return Trainer(vae, guides.BottomUp(vae), **{"seed": 0, "lr": 1e-2, **options})


def fit(t, x=X, **options):
    return t.fit(x, **{"epochs": 2, "batch_size": 8, "progress": False, **options})


def state(t):
    """Parameters, buffers and moments."""
    tensors = [v.detach() for module in t.modules() for v in module.state_dict().values()]
    moments = [v for p in t.parameters() for v in t.optimizer.state.get(p, {}).values()]
    return [torch.as_tensor(v).clone() for v in tensors + moments]


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


class At:
    """Do something after a step; keep the state after each."""

    def __init__(self, step=-1, action=None):
        self.step, self.action, self.states = step, action, {}

    def on_step_end(self, trainer, **kwargs):
        self.states[trainer.step] = state(trainer)
        if trainer.step == self.step:
            self.action(trainer)


class Root(nn.Module):
    """The square root, whose gradient at 0 is infinite, and NaN times 0, from a call on."""

    def __init__(self, first):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.first, self.calls = nn.Linear(2, 6), first, 0

    def forward(self, z):
        h = self.inner(z)
        self.calls += torch.is_grad_enabled() and self.training
        return (0 * h).sqrt() + h if self.calls > self.first else h


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_the_step_before_anything_changed(clip_norm):
    look = At()
    t = trainer(Root(7), clip_norm=clip_norm, engine="eager")
    with pytest.raises(FloatingPointError) as caught:
        fit(t, callbacks=[look])
    text = str(caught.value)
    assert re.match(r"gradient of model.decoder.inner.weight, .* at step 8: lower lr", text)
    assert "before step 8" in text and "on_nonfinite" in text
    assert t.step == 7 and same(state(t), look.states[7])
    # The steps of the second epoch that went well have a row, which says so
    assert t.history.column("failed") == [None, True] and t.history[-1]["step"] == 7


def test_data_that_are_too_large_are_named_with_site_layer_and_ranges():
    t = trainer(norm=None, engine="eager")
    look = At()
    with pytest.raises(FloatingPointError) as caught:
        fit(t, OUTLIER, callbacks=[look])
    text = str(caught.value)
    failed = t.step + 1
    assert f"at step {failed}:" in text.splitlines()[0]
    assert re.match("(reconstruction of the observed sites|KL of site 'z1')", text)
    assert re.search(r"first output .* layer guide\..*", text) or "z1" in text
    assert re.search(r"q\(z1\): (loc in \[.*\]|\d+ of 16 loc NaN)", text)
    assert re.search(r"p\(x\): ", text) and "scale" in text
    assert "Norm of the gradient" in text
    assert failed == 1 or same(state(t), look.states[t.step])


def test_ranges_are_those_of_the_distributions_of_the_step():
    """With beta = NaN from step 3 on nothing but the objective is bad: all ranges are known."""
    beta = torch.tensor(1.0)
    t = trainer(norm=None, beta=beta, engine="eager")
    other = trainer(norm=None, engine="eager")
    with pytest.raises(FloatingPointError) as caught:
        fit(t, callbacks=[At(2, lambda t: beta.fill_(math.nan))])
    seen = []
    forward = other.guide.conditionals["z1"].forward

    def watched(*args):
        q = forward(*args)
        seen.append((q.base_dist.loc.detach(), q.base_dist.scale.detach()))
        return q

    other.guide.conditionals["z1"].forward = watched
    fit(other, epochs=1, callbacks=[At()])
    loc, scale = [pair for pair in seen if len(pair[0]) == 8][-3]
    expected = (
        f"q(z1): loc in [{loc.min():.3g}, {loc.max():.3g}], "
        f"scale in [{scale.min():.3g}, {scale.max():.3g}]."
    )
    assert expected in str(caught.value)


def test_an_update_that_makes_parameters_infinite_is_undone():
    look = At()
    t = trainer(norm=None, optimizer=torch.optim.SGD, lr=1e-3, engine="eager")

    def overflow(trainer):
        trainer.lr = 1e38

    look.step, look.action = 5, overflow
    with pytest.raises(FloatingPointError) as caught:
        fit(t, callbacks=[look])
    assert all(bool(v.isfinite().all()) for v in state(t))
    assert "when all was finite" in str(caught.value) or "before step" in str(caught.value)


def test_an_update_of_parameters_that_were_unfrozen_late_is_undone_too():
    thaw = At(3, lambda t: t.model.decoder.requires_grad_(True))
    t, spoil = trainer(), At(6, lambda t: setattr(t, "lr", 1e39))
    t.model.decoder.requires_grad_(False)
    with pytest.raises(FloatingPointError, match="as they were before step 4, when all was fin"):
        fit(t, batch_size=4, callbacks=[thaw, spoil])
    assert same(state(t), thaw.states[3])


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_last_update_of_an_epoch_is_looked_at_too(epochs):
    t = trainer(norm=None, engine="eager")
    spoil = At(5, lambda t: t.parameters()[0].data.fill_(math.inf))
    with pytest.raises(FloatingPointError, match=r"^parameter model\."):
        fit(t, epochs=epochs, callbacks=[spoil])
    assert all(bool(v.isfinite().all()) for v in state(t))
    assert t.history.column("failed") == [True]


def test_the_error_leaves_the_trainer_usable_and_the_pair_registered_nowhere():
    t = trainer(Root(7), engine="eager")
    with pytest.raises(FloatingPointError):
        fit(t)
    t.model.decoder.first = math.inf
    fit(t, epochs=1)
    assert t.history[-1]["step"] == 12 and not t.model.decoder._forward_hooks


# Late, without waiting for a device


@pytest.fixture
def late(monkeypatch):
    """Look as on a GPU."""
    original = Guard.__init__

    def init(self, *args):
        original(self, *args)
        self._at_once = False

    monkeypatch.setattr(Guard, "__init__", init)


def check_late(t, x):
    look = At()
    with pytest.raises(FloatingPointError) as caught:
        t.fit(x, epochs=1, batch_size=1, progress=False, callbacks=[look])
    text = str(caught.value)
    assert re.match(r"gradient of .* at step 151: lower lr", text)
    assert "before step 101, when all was finite" in text
    assert same(state(t), look.states[100])
    assert 151 < t.step <= 200 and t.history == []


MANY = X.repeat(10, 1)


def test_a_late_look_finds_the_step_and_restores_the_copy(late):
    check_late(trainer(Root(150), norm=None, engine="eager"), MANY)


def test_a_late_look_finds_a_bad_epoch_end(late):
    t = trainer(Root(3), norm=None, engine="eager")
    with pytest.raises(FloatingPointError, match=r"^gradient of .* at step 4:"):
        fit(t)
    assert all(bool(v.isfinite().all()) for v in state(t))
    assert not any(t.optimizer.state.values()), "there were no moments before the first step"


def test_a_late_look_changes_no_number(late, monkeypatch):
    expected = state(fit(trainer()))
    monkeypatch.undo()
    assert same(state(fit(trainer())), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_looks_late_and_does_not_wait():
    t = trainer(Root(150), norm=None, engine="eager", device="cuda")
    check_late(t, MANY)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_on_a_gpu_waits_for_it():
    t = trainer(device="cuda", engine="eager")
    fit(t)
    x = X[:8].cuda()
    guard = Guard(t.steps.svi, t.modules(), t.step, x.device, 0)
    guard.step(x, None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(50):
            guard.step(x, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Steps left out


def by_hand(t, x, epochs):
    """The steps of a run without those that a copy of the pair finds not to be finite."""
    optimizer = torch.optim.Adam([p for p in dict.fromkeys(t.parameters())], lr=1e-2, fused=True)
    estimator = infer.TraceELBO("mean")
    torch.manual_seed(0)
    skipped = []
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(8):
            random = torch.get_rng_state()
            model, guide = copy.deepcopy((t.model, t.guide))
            loss, _ = estimator(model.train(), guide.train(), x[rows])
            if not loss.isfinite():
                skipped.append(rows)
                continue
            torch.set_rng_state(random)
            optimizer.zero_grad()
            estimator(t.model.train(), t.guide.train(), x[rows])[0].backward()
            optimizer.step()
    return skipped


def test_steps_that_are_left_out_leave_no_trace():
    t, other = trainer(), trainer()
    fit(t, OUTLIER, on_nonfinite="skip")
    with pyro.validation_enabled(False):
        assert len(by_hand(other, OUTLIER, 2)) == 2
    for one, two in zip(t.modules(), other.modules(), strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[name]), name
    assert t.history.column("skipped") == [1, 1] and t.step == 10
    assert all(math.isfinite(v) for v in t.history.column("elbo"))


class Counting(nn.Module):
    """A decoder that counts its training passes in a buffer of so many numbers."""

    def __init__(self, size):
        super().__init__()
        self.inner = nn.Linear(2, 6)
        self.register_buffer("passes", torch.zeros(size))

    def forward(self, z):
        if self.training:
            self.passes += 1
        return self.inner(z)


class Replacing(Counting):
    """The same, with another tensor as the buffer after each pass."""

    def forward(self, z):
        if self.training:
            self.passes = self.passes + 1
        return self.inner(z)


@pytest.mark.parametrize("kind", [Counting, Replacing])
@pytest.mark.parametrize("size", [1, 2**14, 2**14 + 1])
def test_steps_that_are_left_out_leave_no_trace_in_buffers_of_any_size(size, kind):
    t = trainer(kind(size), norm=None, engine="eager")
    fit(t, OUTLIER, on_nonfinite="skip")
    assert t.history.column("skipped") == [1, 1] and t.step == 10
    assert t.model.decoder.passes.unique().tolist() == [8.0]


class BadDraw(nn.Module):
    """A decoder that adds one random number, and is NaN where it draws its first one again."""

    def __init__(self):
        super().__init__()
        self.inner, self.first = nn.Linear(2, 6), None

    def forward(self, z):
        draw = torch.rand(())
        if self.training:
            self.first = draw if self.first is None else self.first
            draw = torch.where(draw == self.first, torch.nan, draw)
        return self.inner(z) + draw


def test_a_first_step_that_fails_is_looked_at_on_its_own_numbers():
    """Pyro refuses the NaN; without its checks the same step is not finite.

    On other numbers it would be finite, and the error would be that of a wrong program.
    """
    t = fit(trainer(BadDraw(), norm=None, sigma=0.5, engine="eager"), on_nonfinite="skip")
    assert t.history.column("skipped") == [1, None] and t.step == 10
    t = trainer(BadDraw(), norm=None, sigma=0.5, engine="eager")
    before = [p.detach().clone() for p in t.parameters()]
    with pytest.raises(FloatingPointError, match="at step 1: lower lr") as caught:
        fit(t)
    assert "before step 1" in str(caught.value)
    assert t.step == 0 and same(t.parameters(), before)


def test_a_run_without_bad_steps_is_the_same_and_tells_nothing():
    t, other = fit(trainer(), on_nonfinite="skip"), fit(trainer())
    assert same(state(t), state(other)) and t.history.column("skipped") == [None, None]


def test_the_limit_of_an_epoch():
    def run(limit):
        return fit(trainer(Root(7), engine="eager"), on_nonfinite=Skip(limit), epochs=2)

    with pytest.raises(FloatingPointError, match="at step 10:"):
        run(2)
    assert run(3).history.column("skipped") == [None, 3]
    with pytest.raises(FloatingPointError, match="at step 5:"):
        fit(trainer(Root(0), engine="eager"), on_nonfinite="skip")


def test_a_run_with_steps_left_out_goes_on_from_its_checkpoints(tmp_path):
    expected = fit(trainer(), OUTLIER, on_nonfinite="skip")
    fit(trainer(), OUTLIER, on_nonfinite="skip", checkpoint=tmp_path, every=1, keep=99)
    for path in sorted(tmp_path.glob("step-*.pt"))[::-1][1:]:
        for later in tmp_path.glob("step-*.pt"):
            if later.name > path.name:
                later.unlink()
        again = Trainer.resume(tmp_path)
        again.fit(OUTLIER, progress=False, on_nonfinite="skip", checkpoint=tmp_path / path.stem)
        assert same(state(again), state(expected))
        assert again.history.column("skipped") == [1, 1]


@pytest.mark.parametrize("value", ["ignore", 3, None])
def test_other_ways_are_refused(value):
    with pytest.raises(
        ValueError, match=r"on_nonfinite: expected 'raise', 'skip' or training\.Skip"
    ):
        fit(trainer(), on_nonfinite=value)
    for limit in (0, -1, True, 2.0, "3"):
        with pytest.raises(ValueError, match="limit: expected a whole number"):
            Skip(limit)


def test_the_limits_of_the_three_ways():
    given = ("raise", "skip", Skip(1), Skip(25))
    assert [limit_of(way) for way in given] == [0, 10, 1, 25]
