"""What a callback, or a person beforehand, changes of a run: it takes effect or is refused."""

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, guides, likelihoods, load
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def trainer(**options):
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(5,), norm=nn.BatchNorm1d)
    return Trainer(vae, guides.BottomUp(vae), **{"seed": 0, **options})


def fit(t, **options):
    return t.fit(X, **{"epochs": 2, "batch_size": 20, "progress": False, **options})


class Once:
    """Does something at the end of the first epoch."""

    def __init__(self, action):
        self.action, self.done = action, False

    def on_epoch_end(self, trainer, **kwargs):
        if not self.done:
            self.done = True
            self.action(trainer)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda t: t.swap_guide(guides.Ladder(t.model)), "swap_guide: call it between calls of f"),
        (lambda t: setattr(t, "engine", "eager"), "engine: assign it between calls of fit"),
        (lambda t: setattr(t, "precision", "bf16"), "precision: assign it between calls of fit"),
        (fit, "fit: call it between calls of fit"),
    ],
)
def test_what_cannot_change_within_a_run_is_refused_and_the_way_out_works(action, message):
    t = trainer()
    with pytest.raises(RuntimeError, match=message):
        fit(t, callbacks=[Once(action)])
    assert [row["epoch"] for row in t.history] == [1]
    fit(t, callbacks=[Once(lambda t: t.stop())])
    action(t)
    fit(t)
    epochs = [row["epoch"] for row in t.history]
    assert epochs == list(range(1, len(epochs) + 1))


def test_clipping_that_a_callback_asks_for_begins_at_the_next_step():
    def move(t, **options):
        fit(t, epochs=1, **options)
        before = torch.cat([p.detach().flatten() for p in t.parameters()])
        fit(t, epochs=1, batch_size=40)
        now = torch.cat([p.detach().flatten() for p in t.parameters()])
        return float((now - before).norm())

    plain, clipped = (trainer(optimizer=torch.optim.SGD, lr=1e-2) for _ in range(2))
    callback = Once(lambda t: setattr(t, "clip_norm", 1e-3))
    assert move(plain) > 1e-3
    assert move(clipped, callbacks=[callback]) == pytest.approx(1e-5, rel=1e-2)
    # Within the run as well
    t, seen = trainer(optimizer=torch.optim.SGD, lr=1e-2), []

    class Look:
        def on_step_end(self, trainer, **kwargs):
            seen.append(torch.cat([p.detach().flatten() for p in trainer.parameters()]))
            trainer.clip_norm = 1e-3

    fit(t, epochs=1, callbacks=[Look()])
    assert float((seen[1] - seen[0]).norm()) == pytest.approx(1e-5, rel=1e-2)
    with pytest.raises(ValueError, match="clip_norm: expected a positive number"):
        t.clip_norm = 0.0


@pytest.mark.parametrize("callback", [lambda **kwargs: None, object(), "stop"])
def test_a_callback_without_a_hook_is_refused(callback):
    with pytest.raises(TypeError, match=r"callbacks: .*on_epoch_end, .*never be called"):
        fit(trainer(), callbacks=[callback])


class Dropping(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.dropout, self.norm = inner, nn.Dropout(0.5), nn.BatchNorm1d(6)
        self.modes = []

    def forward(self, z):
        self.modes.append((self.training, self.dropout.training, self.norm.training))
        return self.norm(self.dropout(self.inner(z)))


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_parts_in_evaluation_mode_stay_in_it(engine):
    t = trainer(engine=engine)
    network = t.model.decoder = Dropping(t.model.decoder)
    network.dropout.eval()
    network.norm.eval()
    kept = {k: v.clone() for k, v in network.norm.named_buffers()}
    fit(t, validation=X)
    assert set(network.modes) == {(True, False, False), (False, False, False)}
    assert all(torch.equal(v, kept[k]) for k, v in network.norm.named_buffers())
    assert network.training and not network.norm.training and not network.dropout.training
    network.norm.train()
    fit(t)
    assert not torch.equal(network.norm.running_mean, kept["running_mean"])


def test_a_pair_in_evaluation_mode_trains_in_training_mode():
    t = trainer()
    for module in t.modules():
        module.eval()
    norm = next(m for m in t.guide.modules() if isinstance(m, nn.BatchNorm1d))
    before = norm.running_mean.clone()
    fit(t)
    assert not torch.equal(norm.running_mean, before)
    assert not any(m.training for module in t.modules() for m in module.modules())


def test_modes_of_parts_are_in_the_file_and_in_the_checkpoints_of_a_run(tmp_path):
    def resting():
        t = trainer()
        next(m for m in t.guide.modules() if isinstance(m, nn.BatchNorm1d)).eval()
        return t

    def rows(t):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in t.history]

    t = fit(resting(), checkpoint=tmp_path / "run", epochs=1)
    t.save(tmp_path / "file.pt")
    for again in (load(tmp_path / "file.pt"), Trainer.resume(tmp_path / "run")):
        modes = [m.training for module in again.modules() for m in module.modules()]
        assert modes == [m.training for module in t.modules() for m in module.modules()]
        assert modes.count(False) == 1
    expected = fit(resting())
    again = Trainer.resume(tmp_path / "run").fit(X, epochs=2, progress=False)
    assert rows(again) == rows(expected)
