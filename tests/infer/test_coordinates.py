"""Ways through latent space that keep the support of each site, run on the data at hand."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import diagnostics, guides, infer, likelihoods, models
from pyro_vae.programs.coordinates import coordinates

X = torch.linspace(0.2, 3.0, 12).view(4, 3)


def pair(prior, posterior, seen=lambda z, x: z):
    """One latent, whose mean of p(x|z) is ``seen``; it runs on positive data alone."""

    def model(x):
        assert (x > 0).all()
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(seen(z, x), 1.0).to_event(1), obs=x)

    def guide(x):
        assert (x > 0).all()
        with pyro.plate("rows", len(x)):
            pyro.sample("z", posterior(x))

    return model, guide


def positive(x):
    return dist.LogNormal(x.log(), 0.1).to_event(1)


POSITIVE = pair(lambda x: dist.LogNormal(torch.zeros(3), 1.0).to_event(1), positive)
SHARES = pair(
    lambda x: dist.Beta(torch.ones(3), 1.0).to_event(1),
    lambda x: dist.Beta(x, 1.0).to_event(1),
)
SIMPLEX = pair(lambda x: dist.Dirichlet(torch.ones(3)), dist.Dirichlet)
ORDERED = pair(
    lambda x: dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0).to_event(1), [dist.transforms.OrderedTransform()]
    ),
    lambda x: dist.Delta(x.cumsum(-1), event_dim=1),
)


def test_values_of_a_positive_site_are_logarithms():
    means = infer.reconstruct(*POSITIVE, X[:1])
    values = torch.tensor([-4.0, 0.0, 2.0])
    found = infer.traverse(*POSITIVE, X[0], site="z", values=values)
    for unit in range(3):
        expected = means.repeat(3, 1)
        expected[:, unit] = values.exp()
        torch.testing.assert_close(found[unit], expected)


def test_values_of_shares_are_logits():
    found = infer.traverse(*SHARES, X[0], site="z", dims=[1], values=torch.tensor([-4.0, 4.0]))
    torch.testing.assert_close(found[0, :, 1], torch.tensor([-4.0, 4.0]).sigmoid())
    start, end = infer.reconstruct(*SHARES, X[:2]).logit()
    middle = infer.interpolate(*SHARES, X[0], X[1], steps=3)[1]
    torch.testing.assert_close(middle, ((start + end) / 2).sigmoid())


def test_a_simplex_has_a_coordinate_fewer():
    found = infer.traverse(*SIMPLEX, X[0], site="z")
    assert found.shape == (2, 7, 3)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 7))
    assert (found > 0).all()
    # The first share breaks off at logit(u - log 2), the others keep their proportion
    values = torch.linspace(-3, 3, 7)
    first = torch.sigmoid(values - torch.tensor(2.0).log())
    torch.testing.assert_close(found[0, :, 0], first)
    mean = X[0] / X[0].sum()
    torch.testing.assert_close(found[0, :, 1], (1 - first) * mean[1] / (mean[1] + mean[2]))
    axis, grid = infer.grid_2d(SIMPLEX[0], like=X, site="z", steps=3)
    torch.testing.assert_close(grid.sum(-1), torch.ones(3, 3))
    torch.testing.assert_close(grid[0, 2, 0], torch.sigmoid(axis[2] - torch.tensor(2.0).log()))


@pytest.mark.parametrize("pair", [POSITIVE, SHARES, SIMPLEX, ORDERED])
def test_no_way_leaves_the_support(pair):
    prior = pyro.poutine.trace(pair[0]).get_trace(X).nodes["z"]["fn"]
    ways = infer.interpolate(*pair, X[0], X[3], steps=9), infer.traverse(*pair, X[0], site="z")
    for way in ways:
        assert prior.support.check(way).all()
    ends = infer.reconstruct(*pair, X[[0, 3]])
    torch.testing.assert_close(ways[0][[0, -1]], ends)


def test_a_support_that_another_latent_decides():
    """z in (0, width): both ends are the same share of widths of their own."""

    def model(x):
        with pyro.plate("rows", len(x)):
            width = pyro.sample("width", dist.LogNormal(0.0, 1.0))
            z = pyro.sample("z", dist.Uniform(torch.zeros(len(x)), width))
            pyro.sample("x", dist.Normal(z / width, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("rows", len(x)):
            width = pyro.sample("width", dist.Delta(x[:, 1]))
            pyro.sample("z", dist.Delta(width / 4))

    found = infer.interpolate(model, guide, X[0], X[3], steps=5)
    torch.testing.assert_close(found, torch.full((5,), 0.25))
    found = infer.traverse(model, guide, X[0], site="z", values=torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(found[0], torch.tensor([-1.0, 1.0]).sigmoid())


def test_a_real_site_is_its_own_coordinates():
    z = torch.randn(4, 3)
    normal = dist.Normal(torch.zeros(3), 1.0)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)
    )
    masked = normal.mask(torch.tensor(True)).to_event(1)
    for real in (normal, normal.to_event(1), masked, mixture, dist.VonMises(z, 1.0)):
        assert coordinates(real, z) is z
    # Categories, and what nobody has coordinates of
    for other in (dist.OneHotCategorical(torch.ones(3)), dist.ProjectedNormal(torch.zeros(3))):
        assert coordinates(other, z) is z


def test_categories_are_not_moved_along():
    vqvae = models.VQVAE((1, 8, 8), codes=4, likelihood=likelihoods.Bernoulli())
    pair, x = (vqvae, guides.NearestCode(vqvae)), torch.ones(1, 8, 8)
    with pytest.raises(ValueError, match="site 'z1': expected one with continuous values"):
        infer.traverse(*pair, x, site="z1")
    assert infer.interpolate(*pair, x, 1 - x, steps=3).shape == (3, 1, 8, 8)


def test_programs_run_on_the_data_at_hand():
    """The mean of p(x|z) is z plus what the program reads of its datum."""
    model, guide = pair(
        lambda x: dist.LogNormal(torch.zeros(3), 1.0).to_event(1),
        positive,
        seen=lambda z, x: z + 10 * x[..., :1],
    )
    z = infer.encode(guide, X).mean["z"]
    own = 10 * X[:, :1]
    torch.testing.assert_close(infer.reconstruct(model, guide, X), z + own)
    line = infer.interpolate(model, guide, X[0], X[1], steps=4)
    logs = torch.lerp(z[:1].log(), z[1:2].log(), torch.linspace(0, 1, 4)[:, None])
    torch.testing.assert_close(line, logs.exp() + own[[0, 0, 1, 1]])
    found = infer.traverse(model, guide, X[2], site="z", dims=[0], values=torch.tensor([0.0]))
    torch.testing.assert_close(found[0, 0], own[2] + torch.cat([torch.ones(1), z[2, 1:]]))


def test_ways_of_a_diagnostic_are_those_of_interpolations():
    class Nearest:
        def predict(self, rows):
            seen.append(torch.as_tensor(rows))
            return [0] * len(rows)

    seen = []
    x, y = X[[0, 3]], torch.tensor([0, 1])
    found = diagnostics.continuity(*POSITIVE, (x, y), Nearest(), pairs=1, steps=4)
    expected = infer.interpolate(*POSITIVE, *x[found.pairs[0]], steps=4)
    torch.testing.assert_close(seen[0], expected)
