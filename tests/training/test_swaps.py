"""One run after another: swaps, interruptions, and what is frozen or thawed in between."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting import (
    FROZEN,
    GREY,
    OPTIMIZERS,
    Hook,
    X,
    changed,
    fitted,
    moments,
    more,
    pair,
    rows,
    values,
)
from torch import nn

from pyro_vae import Trainer, guides, infer, likelihoods, load, schedules
from pyro_vae.models import VAE


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("beta", [2.0, schedules.WarmUp(steps=9)], ids=str)
def test_two_fits_equal_one_long_fit(optimizer, beta):
    twice = more(fitted(optimizer=optimizer, beta=beta))
    once = fitted(optimizer=optimizer, beta=beta, epochs=4)
    assert rows(twice) == rows(once)
    assert [(row["epoch"], row["step"]) for row in twice.history] == [
        (1, 3),
        (2, 6),
        (3, 9),
        (4, 12),
    ]
    assert not changed(values(once.model, once.guide), twice.model, twice.guide)


def test_two_fits_equal_one_long_fit_under_dynamic_binarisation():
    def programs():
        return pair(likelihood=likelihoods.Bernoulli())

    assert rows(more(fitted(programs(), GREY), GREY)) == rows(fitted(programs(), GREY, epochs=4))


def test_a_swap_keeps_weights_and_optimizer_state_of_the_model():
    vae, first = pair()
    trainer = fitted((vae, first))
    before, model_moments = values(vae), moments(trainer, vae)
    first_moments, first_values = moments(trainer, first), values(first)
    second = guides.BottomUp(vae, hidden=(5,))
    found = {}

    def look(trainer, **kwargs):
        found.update(model=moments(trainer, vae), state=trainer.optimizer.state)
        found["first"] = moments(trainer, first) if trainer.guide is first else None
        found["second"] = [p for p in second.parameters() if p in trainer.optimizer.state]

    def swap(guide):
        trainer.swap_guide(guide).fit(
            X, epochs=2, batch_size=16, progress=False, callbacks=[Hook(on_fit_begin=look)]
        )

    assert not changed(before, trainer.swap_guide(second).model)
    swap(second)
    torch.testing.assert_close(found["model"], model_moments, rtol=0, atol=0)
    assert found["second"] == []
    assert moments(trainer, second)[0]["step"] == 6 and moments(trainer, vae)[0]["step"] == 12
    assert not changed(first_values, first)
    model_moments, second_values = moments(trainer, vae), values(second)
    swap(first)
    torch.testing.assert_close(found["model"], model_moments, rtol=0, atol=0)
    torch.testing.assert_close(found["first"], first_moments, rtol=0, atol=0)
    assert changed(first_values, first) == set(first_values)
    assert not changed(second_values, second)
    assert changed(before, vae) == set(before)
    assert [row.get("swapped") for row in trainer.history] == [None, None, True, None, True, None]
    assert trainer.history.column("epoch") == [1, 2, 3, 4, 5, 6]


def test_a_swap_before_training_is_none():
    vae, guide = pair()
    trainer = Trainer(vae, guide, seed=0).swap_guide(guides.Delta(vae))
    assert more(trainer).history.column("swapped") == [None, None]
    assert trainer.history.column("guide") == ["Delta", "Delta"]


def test_the_learning_rate_may_be_assigned_at_any_time():
    def halve(trainer, **kwargs):
        trainer.lr /= 2

    trainer = fitted(callbacks=[Hook(on_epoch_end=halve)])
    trainer.lr = 0.5
    trainer.swap_guide(guides.BottomUp(trainer.model))
    more(trainer, epochs=1)
    trainer.lr = FROZEN
    before = values(*trainer.modules())
    more(trainer, epochs=1)
    assert trainer.history.column("lr") == [1e-2, 5e-3, 0.5, FROZEN]
    assert not changed(before, *trainer.modules())


def test_frozen_parameters_stay_bit_equal():
    vae, guide = pair()
    vae.decoder.layers[0].requires_grad_(False)
    guide.conditionals["z1"].loc.bias.requires_grad_(False)
    before = values(vae, guide)
    trainer = fitted((vae, guide))
    frozen = {
        n
        for n, p in zip(before, [*vae.parameters(), *guide.parameters()], strict=True)
        if not p.requires_grad
    }
    assert changed(before, vae, guide) == set(before) - frozen and len(frozen) == 3

    vae.requires_grad_(False)
    guide.requires_grad_(True)
    before = values(vae, guide)
    more(trainer)
    assert changed(before, vae, guide) == {name for name in before if name.startswith("1.")}


def interrupt_at(step):
    def hook(trainer, **kwargs):
        if trainer.step == step:
            raise KeyboardInterrupt

    return Hook(on_step_end=hook)


def test_ctrl_c_leaves_a_usable_trainer(capsys):
    same = X[:1].expand(40, 6)
    vae, guide = pair(guide=guides.Delta)
    vae.eval()
    trainer = Trainer(vae, guide, seed=0, lr=FROZEN)
    more(trainer, same, epochs=9, batch_size=10, callbacks=[interrupt_at(6)])
    assert "Ctrl-C after 6 steps" in capsys.readouterr().out
    assert trainer.history.column("interrupted") == [None, True]
    assert trainer.history.column("step") == [4, 6]
    whole, partial = trainer.history.column("objective")
    assert partial == pytest.approx(whole, rel=1e-6)
    assert not vae.training and guide.training
    more(trainer, same, epochs=1, batch_size=10)
    assert trainer.history.column("step") == [4, 6, 10]


@pytest.mark.parametrize("step", [3, 4])
def test_after_ctrl_c_training_goes_on_with_its_moments(step):
    trainer = fitted(epochs=9, callbacks=[interrupt_at(step)])
    assert moments(trainer, trainer.model)[0]["step"] == step
    more(trainer, epochs=1)
    assert moments(trainer, trainer.model)[0]["step"] == step + 3
    assert [row["epoch"] for row in trainer.history] == list(range(1, len(trainer.history) + 1))


def test_modes_are_restored_and_dropout_is_on_while_training():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(self.training)
            return super().forward(x)

    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), decoder=Watched(2, 6))
    guide = guides.BottomUp(vae)
    vae.eval()
    step = Hook(on_step_end=lambda **kwargs: modes.append(seen[-1]))
    modes = []
    fitted((vae, guide), validation=X, callbacks=[step])
    assert modes == [True] * 6 and seen[-1] is False
    assert not vae.training and guide.training


def test_parameters_without_gradient_are_told_once_an_epoch_has_gone_by():
    vae, guide = pair()
    guide.forgotten = nn.Linear(2, 2)
    with pytest.warns(infer.UntrainedWarning) as caught:
        fitted((vae, guide), epochs=3)
    (message,) = [str(warning.message) for warning in caught]
    assert "no gradient in 3 steps: guide.forgotten.weight, guide.forgotten.bias" in message


class Expert(nn.Module):
    """Another network for the data of a label that some batches lack."""

    def __init__(self, vae):
        super().__init__()
        self.usual, self.rare = guides.BottomUp(vae), nn.Linear(6, 2)

    def forward(self, x, *, y):
        loc = self.usual.conditionals["z1"](x).mean
        if y.any():
            loc = torch.where(y.bool()[:, None], self.rare(x), loc)
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_an_expert_of_a_rare_label_trains_without_a_warning(optimizer):
    vae, guide = pair(guide=Expert)
    guide.usual.conditionals["z1"].raw_scale.requires_grad_(False)
    y = torch.zeros(40, dtype=torch.long)
    y[7] = 1
    before = values(guide.rare)
    fitted((vae, guide), (X, y), epochs=1, batch_size=4, optimizer=optimizer)
    assert len(changed(before, guide.rare)) == 2


@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_end"])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_what_a_callback_unfreezes_or_replaces_trains_from_then_on(engine, hook):
    vae, guide = pair()
    vae.decoder.requires_grad_(False)
    before, done = values(vae, guide), []

    def change(trainer, **kwargs):
        if not done:
            assert not {name for name in changed(before, vae, guide) if "decoder" in name}
            vae.decoder.requires_grad_(True)
            guide.conditionals["z1"].loc = nn.Linear(8, 2)
            before.update(values(vae, guide))
            done.append(True)

    trainer = fitted((vae, guide), engine=engine, callbacks=[Hook(**{hook: change})])
    assert changed(before, vae, guide) == set(before)
    assert all(trainer.optimizer.state[p] for p in trainer.parameters())


def test_a_parameter_that_is_thawed_within_a_run_goes_on_with_its_own_moments():
    """Frozen when the second run began, it finds what the optimizer knew of it in the first."""
    vae, guide = pair()
    trainer = fitted((vae, guide), epochs=1, batch_size=40)
    first = trainer.optimizer.state[vae.decoder.layers[0].weight]["exp_avg"].clone()
    vae.decoder.requires_grad_(False)
    seen = []

    def thaw(trainer, **kwargs):
        vae.decoder.requires_grad_(True)

    def look(trainer, **kwargs):
        state = trainer.optimizer.state[vae.decoder.layers[0].weight]
        seen.append((int(state["step"]), state["exp_avg"].clone()) if state else None)

    hooks = [Hook(on_epoch_end=look), Hook(on_epoch_end=thaw)]
    more(trainer, epochs=2, batch_size=40, callbacks=hooks)
    assert seen[0] is None and seen[1][0] == 2
    gradient = vae.decoder.layers[0].weight.grad
    torch.testing.assert_close(seen[1][1], 0.9 * first + 0.1 * gradient)


def test_a_learning_rate_that_has_fallen_to_zero_ends_no_run(tmp_path):
    def fall(trainer, **kwargs):
        trainer.optimizer.param_groups[0]["lr"] = 0.0

    with pytest.warns(infer.UntrainedWarning, match=r"lr: it was 0 in epoch [2-9]"):
        trainer = fitted(callbacks=[Hook(on_step_end=fall)])
    trainer.save(tmp_path / "trainer.pt")
    before = values(trainer.model, trainer.guide)
    with pytest.warns(infer.UntrainedWarning, match=r"lr: it was 0 in epoch [2-9]"):
        runs = more(trainer), more(load(tmp_path / "trainer.pt")), copy.deepcopy(trainer)
    for again in runs:
        assert again.lr == 0.0 and again.step == trainer.step
        assert not changed(before, again.model, again.guide)
    trainer.swap_guide(guides.BottomUp(trainer.model))
    assert trainer.lr == 0.0
    with pytest.raises(ValueError, match=r"lr: expected a positive finite number, got 0\.0"):
        trainer.lr = 0.0


def test_a_run_that_was_stopped_says_so_until_the_next_one():
    told = []

    def stop(trainer, **kwargs):
        trainer.stop()
        told.append(trainer.stopping)

    trainer = fitted(callbacks=[Hook(on_epoch_end=stop)])
    assert told == [True] and trainer.stopping and len(trainer.history) == 1
    assert not more(trainer).stopping and len(trainer.history) == 3


def test_the_state_of_functions_goes_to_another_trainer():
    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, 6), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("mean", torch.zeros(())), 1.0))

    first, second = (Trainer(model, guide, seed=seed) for seed in (0, 1))
    second.load_state_dict(more(first).state_dict())
    assert (second.step, rows(second)) == (first.step, rows(first)) and second.step > 0


def test_a_state_that_is_taken_over_leaves_the_moments_of_other_guides():
    vae, guide = pair()
    trainer = fitted((vae, guide))
    before = trainer.state_dict()
    trainer.swap_guide(guides.BottomUp(vae))
    trainer.load_state_dict({**trainer.state_dict()})
    trainer.swap_guide(guide)
    for one, other in zip(trainer.state_dict()["moments"], before["moments"], strict=True):
        assert one.keys() == other.keys() and one["exp_avg"] is other["exp_avg"]
