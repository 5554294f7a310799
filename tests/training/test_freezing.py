"""Swapping guides: what is kept, what is frozen, what is thawed."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Trainer, guides, likelihoods, load
from pyro_vae.conditionals.normal import DiagonalNormal
from pyro_vae.models import VAE
from pyro_vae.programs.program import Guide

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


class Normalised(nn.Sequential):
    """A network with state of its own: batch statistics, a counter, dropout."""

    def __init__(self, inputs, outputs):
        super().__init__(
            nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.5)
        )
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z):
        if self.training:
            self.calls += 1
        return super().forward(z)


class Borrowing(Guide):
    """q(z2|x) q(z1|z2), where q(z1|z2) moves the model's own p(z1|z2), like a ladder."""

    def __init__(self, vae):
        super().__init__(vae)
        self.up = nn.Linear(6, 2)
        self.shift = nn.Linear(6, 3)
        self.borrowed = vae.conditionals["z1"]

    def forward(self, x, *, y=None):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.up(x), 1.0).to_event(1))
            p = self.borrowed(z2).base_dist
            pyro.sample("z1", dist.Normal(p.loc + self.shift(x), p.scale).to_event(1))


def pair(guide=guides.BottomUp):
    torch.manual_seed(0)
    vae = VAE(
        (6,),
        (3, 2),
        likelihood=likelihoods.Gaussian(),
        hidden=(8,),
        decoder=nn.Sequential(Normalised(3, 8), nn.Linear(8, 6)),
        top_down={"z1": DiagonalNormal(Normalised(2, 8), 8, 3)},
    )
    return vae, guide(vae)


def fit(trainer, epochs=2, **options):
    return trainer.fit(X, epochs=epochs, batch_size=16, progress=False, **options)


def trained(*programs, **options):
    return fit(Trainer(*(programs or pair()), **{"seed": 0, "lr": 1e-2, **options}))


def state(*modules):
    tensors = [t for m in modules for t in (*m.named_parameters(), *m.named_buffers())]
    return [(name, t.detach().clone()) for name, t in tensors]


def equal(a, b):
    return [name for (name, u), (_, v) in zip(a, b, strict=True) if not torch.equal(u, v)] == []


def moments(trainer, program):
    kept = trainer.state.moments
    kept.keep(trainer.optimizer)
    return [
        {k: torch.as_tensor(v).clone() for k, v in kept[p].items()} for p in program.parameters()
    ]


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("guide", [guides.BottomUp, Borrowing, guides.Delta])
def test_a_frozen_model_is_the_same_to_the_last_bit(guide, engine):
    trainer = trained(engine=engine)
    vae, before = trainer.model, state(trainer.model)
    kept = moments(trainer, vae)
    second = guide(vae)
    own = [p for n, p in second.named_parameters() if not n.startswith("borrowed")]
    start = [p.detach().clone() for p in own]
    trainer.swap_guide(second, freeze_model=True)
    fit(trainer, 120 if engine == "graph" else 2, validation=X)
    assert engine == "eager" or any(trainer.steps.running._recorded.values())
    assert equal(before, state(vae))
    assert not any(torch.equal(p, q) for p, q in zip(start, own, strict=True))
    torch.testing.assert_close(moments(trainer, vae), kept, rtol=0, atol=0)
    assert vae.training and second.training and trainer.frozen


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_ladder_leaves_the_frozen_conditionals_that_it_borrows(engine):
    vae = VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(), hidden=(8,), norm=nn.BatchNorm1d)
    trainer = trained(vae, guides.BottomUp(vae), engine=engine)
    before, ladder = state(vae), guides.Ladder(vae)
    start = [p.detach().clone() for p in ladder.parameters()]
    statistics = ladder.heads["z2"].loc[1].norm.running_mean.clone()
    trainer.swap_guide(ladder, freeze_model=True)
    fit(trainer, 120 if engine == "graph" else 2, validation=X)
    assert equal(before, state(vae))
    assert not any(torch.equal(p, q) for p, q in zip(start, ladder.parameters(), strict=True))
    assert not torch.equal(statistics, ladder.heads["z2"].loc[1].norm.running_mean)


def test_the_guide_of_a_frozen_model_rises_to_its_bound(linear):
    x, guide = linear.data(200), guides.BottomUp(linear.vae)
    trainer = Trainer(linear.vae, linear.guide(), lr=3e-2, seed=0)
    trainer.swap_guide(guide, freeze_model=True)
    for lr in (3e-2, 3e-3):
        trainer.lr = lr
        trainer.fit(x, epochs=100, batch_size=100, progress=False)
    # The posterior of this model is in the guide's family: the bound reaches the evidence
    gap = linear.evidence().log_prob(x).mean() - linear.bound(guide, x).mean()
    assert 0 <= gap < 0.02
    assert torch.equal(linear.vae.decoder.layers[0].weight, linear.W)


def test_the_next_swap_thaws_what_was_frozen_and_no_more():
    vae, guide = pair()
    vae.decoder[1].bias.requires_grad_(False)
    guide.conditionals["z1"].loc.bias.requires_grad_(False)
    trainer = trained(vae, guide)
    for frozen in (True, True, False):
        trainer.swap_guide(guides.BottomUp(vae), freeze_model=frozen)
        trainable = {name for name, p in vae.named_parameters() if p.requires_grad}
        names = {name for name, _ in vae.named_parameters()}
        assert trainable == (set() if frozen else names - {"decoder.1.bias"})
        before = state(vae)
        fit(trainer, 1)
        assert equal(before, state(vae)) is frozen
    trainer.swap_guide(guide)
    assert not guide.conditionals["z1"].loc.bias.requires_grad
    assert trainer.history.column("frozen") == [False, False, True, True, False]


def test_a_guide_that_comes_back_goes_on_where_it_stopped():
    vae, first = pair()
    trainer = trained(vae, first)
    weights, kept, of_model = state(first), moments(trainer, first), moments(trainer, vae)
    fit(trainer.swap_guide(Borrowing(vae), freeze_model=True))
    trainer.swap_guide(first)
    assert equal(weights, state(first))
    # As if the other guide had never been there, but for the random numbers that it took
    twin = trained(*pair())
    assert equal(state(vae), state(twin.model)) and equal(state(first), state(twin.guide))
    trainer.state.stream.load(twin.state.stream.states())
    torch.testing.assert_close(moments(trainer, first), kept, rtol=0, atol=0)
    torch.testing.assert_close(moments(trainer, vae), of_model, rtol=0, atol=0)
    assert [row["elbo"] for row in fit(trainer).history[-2:]] == [
        row["elbo"] for row in fit(twin).history[-2:]
    ]
    assert equal(state(vae), state(twin.model)) and equal(state(first), state(twin.guide))


def test_a_frozen_model_is_thawed_after_loading(tmp_path):
    vae = VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    vae.decoder.layers[0].bias.requires_grad_(False)
    trainer = trained(vae, guides.BottomUp(vae))
    fit(trainer.swap_guide(guides.BottomUp(vae), freeze_model=True), 1)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert again.frozen and not any(p.requires_grad for p in again.model.parameters())
    before = state(again.model)
    assert fit(again, 1).history[-1]["frozen"] and equal(before, state(again.model))
    again.swap_guide(guides.BottomUp(again.model))
    frozen = [n for n, p in again.model.named_parameters() if not p.requires_grad]
    assert frozen == ["decoder.layers.0.bias"] and not again.frozen
    assert json.loads(again.history.to_json()) == again.history


def test_modes_that_the_user_set_are_restored():
    vae, guide = pair()
    trainer = trained(vae, guide)
    vae.decoder[0].eval()
    fit(trainer.swap_guide(Borrowing(vae), freeze_model=True), 1)
    assert not vae.decoder[0].training and vae.decoder.training and vae.training
    assert vae.conditionals["z1"].network.training


def test_a_plain_function_cannot_be_frozen():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, 6), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 1.0))

    trainer = Trainer(model, guide, seed=0)
    with pytest.raises(TypeError, match="freeze_model: expected a model that is a module"):
        trainer.swap_guide(guide, freeze_model=True)
    assert not trainer.frozen
