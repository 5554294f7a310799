"""Guides of models of incomplete data see zeros where values are missing, and a mask."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from missing_values import holes
from torch import nn

from pyro_vae import Trainer, guides, handlers, infer, likelihoods
from pyro_vae.guides.measures import Measure
from pyro_vae.models import VAE


def counts(x, site):
    """Counts at sites with a level each, and which site that is."""
    with pyro.plate("data", len(x)):
        level = pyro.sample("level", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        rates = (level[..., :1] + 0.1 * site.unsqueeze(-1)).exp().expand(-1, 3)
        pyro.sample("x", dist.Poisson(rates).to_event(1), obs=x)


def test_networks_see_standardised_values_zeros_and_a_mask():
    likelihood = likelihoods.Gaussian(loc=[1.0, 2.0, 3.0], scale=2.0)
    model = handlers.missing(VAE((3,), 2, likelihood=likelihood, hidden=(4,)))
    guide = guides.BottomUp(model)
    q = guide.conditionals["z1"](torch.tensor([[2.0, 0.0, 1.0, 1.0, 0.0, 1.0]]))
    x = torch.tensor([[5.0, torch.nan, 5.0]])
    assert torch.equal(guide.encode(x).mean["z1"], q.mean)
    assert "6" in str(guide.conditionals["z1"])


@pytest.mark.parametrize(
    ("shape", "seen"), [((3,), (6,)), ((2, 8, 8), (4, 8, 8)), ((8, 8), (2, 8, 8))]
)
def test_a_mask_is_further_elements_or_channels(shape, seen):
    vae = VAE(shape, 2, likelihood=likelihoods.Gaussian())
    model = handlers.missing(vae)
    x = holes(torch.randn(4, *shape))
    for guide in (guides.BottomUp(model), guides.Ladder(model)):
        assert guide.reading.shapes["x"] == seen
        assert guide.encode(x).mean["z1"].isfinite().all()
    # An encoder of one's own gets both in one
    encoder = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    encoder(torch.zeros(1, *seen))
    assert guides.BottomUp(model, encoder=encoder).encode(x).mean["z1"].isfinite().all()


def test_arguments_of_programs_are_measured_by_what_is_seen():
    x = torch.poisson(torch.full((200, 3), 50.0))
    gone = torch.rand(200, 3) < 0.5
    some, site = x.where(~gone, torch.nan), torch.randint(0, 3, (200,))
    measured = Measure("x", some)
    columns = [column[~lost] for column, lost in zip(x.T, gone.T, strict=True)]
    assert torch.allclose(measured.loc, torch.stack([c.mean() for c in columns]))
    deviations = torch.stack([c.std(correction=0) for c in columns])
    assert torch.allclose(measured.scale, deviations, rtol=1e-4)
    empty = some.clone()
    empty[:, 1] = torch.nan
    assert Measure("x", empty).scale.isfinite().all() and Measure("x", empty).loc[1] == 0
    model = handlers.missing(counts)
    guide = guides.BottomUp(model, like=(some, site), hidden=(4,))
    inputs = guide.reading.arguments
    # Sites are numbers that never lack, followed by an indicator each
    assert inputs.shapes == {"x": (6,), "site": (4,)}
    shown = inputs.shown(inputs.read(model, some, site))["x"]
    expected = ((x - measured.loc) / measured.scale).masked_fill(gone, 0.0)
    assert torch.allclose(shown, torch.cat([expected, (~gone).float()], 1))


def test_conditionals_of_ones_own_get_values_as_they_are_and_a_mask():
    class Seeing(nn.Module):
        def forward(self, both, *others):
            self.both = both
            return dist.Normal(both[:, :2], 1.0).to_event(1)

    own, x = Seeing(), torch.tensor([[40.0, torch.nan, 60.0]]).repeat(12, 1)
    model = handlers.missing(counts)
    site = torch.zeros(12, dtype=torch.long)
    guide = guides.BottomUp(model, like=(x, site), conditionals={"level": own})
    guide(x, site)
    assert torch.equal(own.both[0], torch.tensor([40.0, 0.0, 60.0, 1.0, 0.0, 1.0]))


GUIDES = {
    "BottomUp": guides.BottomUp,
    "Ladder": guides.Ladder,
    "FullCovariance": guides.FullCovariance,
    "Flow": guides.Flow,
    "Delta": guides.Delta,
    "SemiAmortized": lambda model, **like: guides.SemiAmortized(guides.BottomUp(model, **like)),
    "Composed": lambda model, **like: guides.Composed(guides.BottomUp(model, **like)),
    "start": lambda model, **like: guides.Flow(model, start=guides.BottomUp(model, **like)),
}


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("own", [False, True])
def test_every_guide_is_trained_on_incomplete_data(kind, own):
    torch.manual_seed(0)
    x = holes(torch.poisson(torch.full((40, 3), 3.0)))
    if own:
        model = handlers.missing(counts)
        data = (x, torch.randint(0, 3, (40,)))
        guide = GUIDES[kind](model, like=data)
    else:
        model = handlers.missing(VAE((3,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,)))
        data, guide = x, GUIDES[kind](model)
    trainer = Trainer(model, guide, lr=1e-2, seed=0, beta=0.0 if kind == "Delta" else 1.0)
    trainer.fit(data, epochs=8, batch_size=20, progress=False)
    improved = "reconstruction" if kind == "Delta" else "elbo"
    assert trainer.history[-1][improved] > trainer.history[0][improved]
    assert infer.encode(guide, data).mean[guide.latents[0]].isfinite().all()


def test_rows_of_a_guide_for_each_datum_are_found_where_values_are_missing():
    x = holes(torch.randn(10, 4))
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian()))
    guide = guides.PerDatum(model, x)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(torch.randn_like(parameter))
    order = torch.randperm(10)
    means = guide.encode(x).mean["z1"]
    assert torch.equal(guide.encode(x[order]).mean["z1"], means[order])
    other = x.clone()
    other[3, int(x[3].isnan().logical_not().nonzero()[0])] = torch.nan
    with pytest.raises(ValueError, match="x: 1 of 10 rows are not among the 10 data"):
        guide(other)
