"""Ladders whose latents are maps: the model, against hand counts and dense algebra."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.distributions.transforms import ReshapeTransform

from pyro_vae import guides, infer, likelihoods, models, networks
from pyro_vae.models import VAE


def ladder(event_shape=(1, 9, 7), latents=((4, 5, 4), (6, 3, 2), 5), **options):
    torch.manual_seed(0)
    options = {"likelihood": likelihoods.Bernoulli(), **options}
    return VAE(event_shape, latents, **options)


def conv(i, o, k=3):
    return i * o * k * k + o


def test_parameters_are_as_many_as_by_hand():
    vae = ladder((1, 28, 28), ((8, 14, 14), (16, 7, 7), 32), channels=(10, 20), blocks=1)
    count = {name: sum(p.numel() for p in m.parameters()) for name, m in vae.conditionals.items()}

    def residual(c):
        return conv(c, c) + conv(c, c, 1)

    assert count["z3"] == 0
    # A vector to 20 maps of 7 x 7, a stage, and two heads
    dense = 32 * 20 * 49 + 20 * 49
    assert count["z2"] == dense + conv(20, 20) + residual(20) + 2 * conv(20, 16, 1)
    # A stage at 7 x 7, one at 14 x 14, and two heads
    stages = conv(16, 20) + residual(20) + conv(20, 10) + residual(10)
    assert count["z1"] == stages + 2 * conv(10, 8, 1)
    decoder = conv(8, 10) + residual(10) + conv(10, 10) + residual(10) + conv(10, 1, 1)
    assert sum(p.numel() for p in vae.decoder.parameters()) == decoder
    guide = guides.Ladder(vae, hidden=(30,))
    up = conv(1, 10) + residual(10) + 2 * conv(10, 8, 1)
    up += conv(10, 20) + residual(20) + 2 * conv(20, 16, 1)
    up += 20 * 49 * 30 + 30 + 2 * (30 * 32 + 32)
    assert sum(p.numel() for p in guide.parameters()) == up


@pytest.mark.parametrize(
    ("event_shape", "latents", "kind"),
    [
        ((1, 9, 7), ((4, 9, 7), (3, 5, 4), (2, 5, 4), (2, 1, 1), 5, 3), None),
        ((9, 7), ((4, 5, 4),), None),
        ((2, 13), ((4, 7), (3, 4), 2), "signal"),
        ((3, 5, 8, 7), ((2, 3, 4, 4), (3, 1, 1, 1)), "video"),
        ((5, 4, 3), ((2, 3, 2, 2), 3), "video"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_maps_of_any_size_and_dimension(event_shape, latents, kind, skip):
    vae = ladder(event_shape, latents, kind=kind, skip=skip)
    shapes = [(k,) if isinstance(k, int) else k for k in latents]
    assert [*vae.latent_shapes.values()] == shapes[::-1]
    assert vae.latent_sizes == {s: math.prod(k) for s, k in vae.latent_shapes.items()}
    x = vae.sample(3)
    assert x.shape == (3, *event_shape)
    found = infer.structure(vae, x)
    told = vae.structure
    assert found.parents == told.parents
    assert {s: k.event_shape for s, k in found.latents.items()} == vae.latent_shapes
    for guide in (guides.Ladder(vae), guides.BottomUp(vae)):
        drawn = guide(x)
        assert {s: z.shape[1:] for s, z in drawn.items()} == vae.latent_shapes
        infer.check_pair(vae, guide, x)


def maps_of(network, shape):
    """The affine map of a network from values of a shape: a matrix and a constant, flat."""
    zero = torch.zeros(1, *shape, dtype=torch.double)
    constant = network(zero).flatten()
    units = torch.eye(math.prod(shape), dtype=torch.double).reshape(-1, *shape)
    return (network(units).flatten(1) - constant).T, constant


class Posterior(nn.Module):
    """The exact p(z|x) of a linear chain, from the top down: each site given those above and x."""

    def __init__(self, vae, mean, covariance, order):
        super().__init__()
        self.vae, self.mean, self.covariance, self.order = vae, mean, covariance, order

    def forward(self, x):
        seen, values = ["x"], [x.flatten(1)]
        with pyro.plate("data", len(x)):
            for site in self.vae.latents:
                q = conditional(self.mean, self.covariance, self.order, site, seen, values)
                shape = self.vae.latent_shapes[site]
                reshaped = [ReshapeTransform((math.prod(shape),), shape)]
                z = pyro.sample(site, dist.TransformedDistribution(q, reshaped))
                seen.append(site)
                values.append(z.flatten(1))


def conditional(mean, covariance, order, site, seen, values):
    a, b = order[site], torch.cat([order[s] for s in seen])
    gain = torch.linalg.solve(covariance[b][:, b], covariance[b][:, a]).T
    loc = mean[a] + (torch.cat(values, -1) - mean[b]) @ gain.T
    spread = covariance[a][:, a] - gain @ covariance[b][:, a]
    return dist.MultivariateNormal(loc, (spread + spread.T) / 2)


@pytest.mark.parametrize("latents", [((2, 2, 2), (1, 1, 1), 2), ((1, 3, 3), (2, 2, 2))])
def test_a_linear_chain_has_its_exact_evidence(latents):
    likelihood = likelihoods.Gaussian(0.7)
    vae = ladder((1, 3, 3), latents, activation=nn.Identity, likelihood=likelihood).double()
    with torch.no_grad():
        for site in vae.latents[1:]:
            head = vae.conditionals[site].raw_scale
            for parameter in head.parameters():
                parameter.zero_()
            head.convolution.bias.add_(0.3)
    # Mean and covariance of all that is drawn, by what each adds to the one above
    sites = [*vae.latents, "x"]
    shapes = {**vae.latent_shapes, "x": vae.event_shape}
    ends = torch.tensor([math.prod(shapes[s]) for s in sites]).cumsum(0).tolist()
    order = {
        s: torch.arange(e - math.prod(shapes[s]), e) for s, e in zip(sites, ends, strict=True)
    }
    mean, factor = torch.zeros(ends[-1]).double(), torch.zeros(ends[-1], ends[-1]).double()
    above = None
    for site in sites:
        rows = order[site]
        scale = 1.0
        if above is not None:
            network = vae.decoder
            scale = float(vae.likelihood.sigma)
            if site != "x":
                normal = vae.conditionals[site]

                def network(z, normal=normal):
                    return normal(z).mean

                scale = math.log1p(math.exp(0.3)) + normal.min_scale
            matrix, constant = maps_of(network, shapes[above])
            mean[rows] = matrix @ mean[order[above]] + constant
            factor[rows] = matrix @ factor[order[above]]
        factor[rows, rows] += scale
        above = site
    covariance = (factor @ factor.T).detach()
    x = torch.randn(4, *vae.event_shape, dtype=torch.double)
    marginal = MultivariateNormal(mean[order["x"]].detach(), covariance[order["x"]][:, order["x"]])
    evidence = marginal.log_prob(x.flatten(1))
    exact = Posterior(vae, mean.detach(), covariance, order)
    # Under the exact posterior every draw gives log p(x)
    torch.testing.assert_close(infer.elbo_terms(vae, exact, x).elbo, evidence)
    bound = infer.elbo_terms(vae, guides.Ladder(vae).double(), x, samples=200).elbo
    assert (bound < evidence).all()


def test_vectors_are_as_they_were():
    vae = ladder(latents=(4, 3))
    assert vae.pyramid is None and vae.latent_shapes == {"z2": (3,), "z1": (4,)}
    # A shape of one number is a vector, too
    same = ladder(latents=((4,), 3))
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("labels", ["all", "partial"])
def test_classes_beside_maps(labels):
    vae = ladder(condition=3, labels=labels, skip=True)
    x, y = torch.rand(6, 1, 9, 7).round(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert vae.sample(6, y=y).shape == x.shape
    guide = guides.BottomUp(vae)
    if labels == "partial":
        y = torch.tensor([0, -1, 2, -1, 1, -1])
        pair = infer.elbo_terms(vae, guide, x, y=y)
        assert pair.elbo.isfinite().all()
        assert guide.classify(x, samples=3).shape == (6, 3)
    else:
        assert infer.elbo_terms(vae, guide, x, y=y).elbo.isfinite().all()


def test_a_decoder_of_ones_own_sees_maps():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 1, 3, stride=2, padding=1, output_padding=(0, 0))

        def forward(self, z):
            return self.up(z)

    vae = ladder((1, 9, 7), ((4, 5, 4), 3), decoder=Decoder())
    assert vae.sample(2).shape == (2, 1, 9, 7)
    with pytest.raises(ValueError, match=r"decoder: .* expects features \(n, 1, 9, 7\)"):
        ladder((1, 9, 7), ((4, 5, 4), 3), decoder=nn.Conv2d(4, 1, 1))
    with pytest.raises(ValueError, match=r"maps tensors of shape \(n, 4, 5, 4\)"):
        ladder((1, 9, 7), ((4, 5, 4), 3), decoder=nn.Conv2d(5, 1, 1))


def test_a_second_network_for_sigma_begins_where_sigma_stands():
    for norm in (None, networks.WeightNorm()):
        vae = ladder(norm=norm, likelihood=likelihoods.Gaussian("learned"))
        guide, x = guides.Ladder(vae), torch.randn(5, 1, 9, 7)
        torch.manual_seed(1)
        before = infer.elbo_terms(vae, guide, x).elbo
        vae.predict_sigma()
        torch.manual_seed(1)
        torch.testing.assert_close(infer.elbo_terms(vae, guide, x).elbo, before)
        loss = -infer.elbo_terms(vae, guide, x).elbo.mean()
        assert loss.isfinite()
        assert vae.decoder(torch.zeros(2, 4, 5, 4)).shape == (2, 1, 9, 7, 2)


@pytest.mark.parametrize(
    ("latents", "options", "told"),
    [
        (((8, 4, 4), (0, 2, 2)), {}, "positive integers, or shapes of them, got (0, 2, 2)"),
        (((8, 4.0, 4),), {}, "positive integers, or shapes of them, got (8, 4.0, 4)"),
        (((-8, 4, 4),), {}, "positive integers, or shapes"),
        (((8, 4),), {}, "z1: expected a map (c, h, w)"),
        (((8, 3, 3),), {}, "pass such as (8, 8, 8) or (8, 4, 4) or (8, 2, 2) or (8, 1, 1)"),
        (((8, 16, 16),), {}, "z1: expected a map"),
        (((8, 2, 2), (8, 4, 4)), {}, "z2: expected a map"),
        ((5, (8, 4, 4)), {}, "z2: expected a vector above vectors"),
        (((8, 4, 4), 5), {"kind": "array"}, "pass such as 128"),
        (((8, 4, 4), 5), {"channels": (32, 0)}, "channels: expected positive integers"),
        (((8, 4, 4), 5), {"blocks": -1}, "blocks: expected a whole number of at least 0"),
        (((8, 4, 4),), {"hidden": (30,)}, "hidden: expected none for latents that are maps"),
        ((), {}, "pass at least one"),
    ],
)
def test_maps_that_do_not_fit_are_told_before_training(latents, options, told):
    with pytest.raises(ValueError) as caught:
        ladder((1, 8, 8), latents, **options)
    assert told in str(caught.value)


def test_a_signal_without_channels_is_told_to_have_them():
    with pytest.raises(ValueError, match=r"event_shape: expected channels first, \(1, 16\)"):
        ladder((16,), ((2, 8),), kind="signal")
    assert ladder((1, 16), ((2, 8),), kind="signal").sample(2).shape == (2, 1, 16)


def test_latents_of_another_shape_are_refused_by_decode():
    vae = ladder()
    with pytest.raises(ValueError, match=r"z\['z1'\]: expected shape \(n, 4, 5, 4\), got"):
        vae.decode({"z1": torch.zeros(2, 80)})
    z = {"z1": torch.zeros(2, 4, 5, 4)}
    assert vae.decode(z).mean.shape == (2, 1, 9, 7)


def test_maps_are_of_models_that_tell_nothing_else():
    assert models.VQVAE((1, 8, 8), likelihood=likelihoods.Bernoulli()).latent_shapes.keys() == {
        "z1"
    }
