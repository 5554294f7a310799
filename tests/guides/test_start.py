"""A guide that starts at another one: the same distribution, in parameters of its own."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Trainer, infer, load, save
from pyro_vae.guides import BottomUp, Flow, FullCovariance, Ladder
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

RICHER = pytest.mark.parametrize("richer", [FullCovariance, Flow, BottomUp])


class Program(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 4)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(3), 1.0).to_event(1))
            shift = pyro.sample("shift", dist.Normal(x.new_zeros(()), 1.0))
            loc = self.net(scale) + shift[..., None]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def vae(dtype, norm=None, condition=0):
    options = {"hidden": (8,), "norm": norm, "condition": condition}
    return VAE((4,), (3, 2), likelihood=Gaussian(), **options).to(dtype)


PAIRS = {
    "two layers": lambda x: (m := vae(x.dtype), BottomUp(m, hidden=(5,)).to(x.dtype)),
    "normalised": lambda x: (m := vae(x.dtype, nn.BatchNorm1d), BottomUp(m).to(x.dtype)),
    "top-down": lambda x: (m := vae(x.dtype), BottomUp(m, order="top-down").to(x.dtype)),
    "own encoder": lambda x: (
        m := vae(x.dtype),
        BottomUp(m, encoder=nn.Linear(4, 6), sites=None).to(x.dtype),
    ),
    "program": lambda x: (m := Program().to(x.dtype), BottomUp(m, like=x)),
}


def bound(model, guide, x):
    torch.manual_seed(3)
    return infer.elbo_terms(model, guide, x).elbo


def trained(model, guide, x):
    Trainer(model, guide, seed=0, lr=0.01).fit(x, epochs=1, batch_size=16, progress=False)
    return guide


@RICHER
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", PAIRS)
def test_the_bound_is_the_same_and_the_start_stays(name, dtype, tolerance, richer):
    torch.manual_seed(0)
    x = torch.randn(48, 4, dtype=dtype)
    model, start = PAIRS[name](x)
    trained(model, start, x)
    before = bound(model, start, x)
    guide = richer(model, start=start)
    torch.testing.assert_close(bound(model, guide, x), before, rtol=tolerance, atol=tolerance)
    assert guide.inputs == start.inputs and guide.latents == start.latents
    kept = {name: value.clone() for name, value in start.state_dict().items()}
    held = {id(p) for p in start.parameters()}
    assert not held & {id(p) for p in guide.parameters()}
    twice = richer(model, start=guide)
    torch.testing.assert_close(bound(model, twice, x), before, rtol=tolerance, atol=tolerance)
    moved = [p.clone() for p in guide.parameters()]
    trained(model, guide, x)
    after = [*guide.parameters()]
    assert not any(map(torch.equal, moved, after)), "all of it trains"
    assert all(torch.equal(value, kept[name]) for name, value in start.state_dict().items())


@RICHER
def test_a_file_holds_the_result(richer, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(10, 4)
    model = vae(x.dtype)
    start = BottomUp(model, hidden=(5,), order="top-down")
    guide = richer(model, start=start)
    assert "start" not in guide.arguments
    save(guide, tmp_path / "guide.pt")
    loaded = load(tmp_path / "guide.pt")
    assert loaded.inputs == start.inputs
    torch.testing.assert_close(bound(loaded.model, loaded, x), bound(model, guide, x))


def test_a_ladder_starts_as_a_ladder(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(48, 4)
    for model, start in (
        (m := vae(x.dtype, nn.BatchNorm1d), Ladder(m, hidden=(5,), upward="means")),
        (m := Program(), Ladder(m, like=x)),
    ):
        trained(model, start, x)
        guide = Ladder(model, start=start)
        assert not {*map(id, start.parameters())} & {*map(id, guide.parameters())}
        torch.testing.assert_close(bound(model, guide, x), bound(model, start, x))
        assert repr(guide) == repr(start) and guide.upward == start.upward
        kept = {name: value.clone() for name, value in start.state_dict().items()}
        trained(model, guide, x)
        assert all(torch.equal(value, kept[name]) for name, value in start.state_dict().items())
    assert "start" not in guide.arguments


def test_modules_that_conditionals_share_are_shared_by_their_copies():
    model = vae(torch.float32)
    shared = nn.Linear(4, 3)
    skip = VAE((4,), (3, 2), likelihood=Gaussian(), hidden=(8,), skip=True)
    start = BottomUp(skip, encoder=shared)
    guide = FullCovariance(skip, start=start)
    assert guide.reading.encoder is not shared
    x = torch.randn(6, 4)
    torch.testing.assert_close(bound(skip, guide, x), bound(skip, start, x))
    own = BottomUp(model, conditionals={"z1": BottomUp(model).conditionals["z1"]})
    grown = FullCovariance(model, start=own)
    assert type(grown.conditionals["z1"]) is type(own.conditionals["z1"])
    torch.testing.assert_close(bound(model, grown, x), bound(model, own, x))
