import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from torch.nn.functional import one_hot

from pyro_vae import infer, plots
from pyro_vae.data import Dataset
from pyro_vae.guides import BottomUp
from pyro_vae.infer import grid_2d, interpolate, reconstruct, traverse
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE

W = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])


def user_model(x):
    with pyro.plate("rows", len(x)):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.1).expand([1]).to_event(1))
        code = pyro.sample("code", dist.Normal(scale.expand(-1, 2), 1.0).to_event(1))
        pyro.sample("seen", dist.Normal(code @ W * scale, 1.0).to_event(1), obs=x)


def user_guide(x):
    with pyro.plate("rows", len(x)):
        code = pyro.sample("code", dist.Normal(x[:, :2], 0.1).to_event(1))
        pyro.sample("scale", dist.LogNormal(code[:, :1], 0.1).to_event(1))


def user_codes(x):
    code = x[:, :2]
    return code, (code[:, :1] + 0.005).exp()


@pytest.fixture
def deep():
    vae = VAE((6,), (4, 3, 2), likelihood=Gaussian(), hidden=(5,))
    return vae, BottomUp(vae)


def test_reconstruction_by_hand(linear):
    x = linear.data(5)
    mean, _ = linear.posterior(x)
    got = reconstruct(linear.vae, linear.guide(), x)
    torch.testing.assert_close(got, mean @ linear.W.T + linear.b, atol=1e-5, rtol=1e-5)


def test_reconstruction_from_a_draw_has_the_posteriors_spread(linear):
    x = linear.data(1)
    mean, sd = linear.posterior(x)
    draws = reconstruct(linear.vae, linear.guide(), x.expand(20_000, 6), sample=True)
    expected = (linear.W * sd.square()) @ linear.W.T
    error = (draws.mean(0) - mean @ linear.W.T - linear.b) / (expected.diagonal() / 2e4).sqrt()
    assert excess(error) < 1
    spread = expected.diagonal()[:, None] * expected.diagonal() + expected.square()
    assert excess((draws.T.cov() - expected) / (spread / 2e4).sqrt()) < 1


def test_reconstruction_of_a_users_pair():
    x = torch.randn(4, 3)
    code, scale = user_codes(x)
    torch.testing.assert_close(reconstruct(user_model, user_guide, x), code @ W * scale)


def test_reconstruction_of_a_conditional_pair():
    vae = VAE((6,), 2, likelihood=Bernoulli(), hidden=(), condition=2)
    guide, x = BottomUp(vae), torch.ones(3, 6)
    y = torch.tensor([0, 1, 1])
    label = one_hot(y, 2).float()
    z = guide.conditionals["z1"].loc(torch.cat([x, label], -1))
    expected = vae.decoder(torch.cat([z, label], -1)).sigmoid()
    torch.testing.assert_close(reconstruct(vae, guide, x, y=y), expected.detach())


def test_interpolation_is_a_line_between_the_means(linear):
    x = linear.data(2)
    (start, end), _ = linear.posterior(x)
    got = interpolate(linear.vae, linear.guide(), x[0], x[1], steps=5)
    for i, t in enumerate([0.0, 0.25, 0.5, 0.75, 1.0]):
        z = (1 - t) * start + t * end
        torch.testing.assert_close(got[i], linear.W @ z + linear.b, atol=1e-5, rtol=1e-5)


def test_interpolation_moves_all_layers():
    vae = VAE((6,), (4, 3, 2), likelihood=Gaussian(), hidden=(5,), skip=True)
    guide = BottomUp(vae)
    x = torch.randn(2, 6)
    mean = guide.encode(x).mean
    z = {s: (v[0] + v[1])[None] / 2 for s, v in mean.items()}
    got = interpolate(vae, guide, x[0], x[1], steps=3)
    torch.testing.assert_close(got[1:2], vae.decode(z).mean)
    torch.testing.assert_close(got[[0, 2]], vae.decode(mean).mean)


def test_interpolation_of_a_users_pair():
    x = torch.randn(2, 3)
    code, scale = user_codes(x)
    got = interpolate(user_model, user_guide, x[0], x[1], steps=3)
    # A positive site goes straight in its logarithm
    torch.testing.assert_close(got[1], code.mean(0) @ W * scale.log().mean(0).exp())


def test_interpolation_changes_the_label_in_the_middle():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(), condition=2)
    guide, x = BottomUp(vae), torch.randn(6)
    y = torch.tensor([1, 0])
    z = guide.encode(torch.stack([x, x]), y=y).mean["z1"]
    got = interpolate(vae, guide, x, x, steps=4, y=y)
    t = torch.tensor([0, 1 / 3, 2 / 3, 1])[:, None]
    expected = vae.decode((1 - t) * z[0] + t * z[1], y=torch.tensor([1, 1, 0, 0])).mean
    torch.testing.assert_close(got, expected)


def test_interpolation_needs_two_steps(linear):
    with pytest.raises(ValueError, match="steps: expected a whole number of at least 2, got 1"):
        interpolate(linear.vae, linear.guide(), torch.zeros(6), torch.ones(6), steps=1)


@pytest.mark.parametrize("n", [1, 3])
def test_pairs_of_rows_have_a_line_each(deep, n):
    vae, x = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(5,), condition=4), torch.randn(6, 6)
    y = torch.tensor([[0, 1], [2, 3], [3, 0]])[:n]
    for model, guide, labels in (
        (*deep, None),
        (vae, BottomUp(vae), y),
        (vae, BottomUp(vae), y[0]),
    ):
        lines = interpolate(model, guide, x[:n], x[3 : 3 + n], steps=4, y=labels)
        assert lines.shape == (n, 4, 6)
        for i in range(n):
            own = labels if labels is None or labels.dim() == 1 else labels[i]
            one = interpolate(model, guide, x[i], x[3 + i], steps=4, y=own)
            torch.testing.assert_close(lines[i], one)


def test_pairs_of_rows_of_functions():
    """Those of plates within that of the data have a datum of their dimensions, not several."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("columns", 3, dim=-1):
                pyro.sample("x", dist.Normal(z * torch.arange(3.0), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 1.0))

    x = torch.randn(4, 3)
    own, other = (user_model, user_guide), (model, guide)
    for pair in (own, other):
        lines = interpolate(*pair, x[:2], x[2:], steps=3)
        one = [interpolate(*pair, x[i], x[2 + i], steps=3) for i in range(2)]
        torch.testing.assert_close(lines, torch.stack(one))
        assert lines.shape == (2, 3, 3)


def test_traversal_by_hand(linear):
    x = linear.data(1)
    mean, _ = linear.posterior(x)
    values = torch.tensor([-2.0, 0.5, 3.0])
    got = traverse(linear.vae, linear.guide(), x[0], site="z1", values=values)
    assert got.shape == (2, 3, 6)
    for dim in range(2):
        for i, value in enumerate(values):
            z = mean[0].clone()
            z[dim] = value
            torch.testing.assert_close(got[dim, i], linear.W @ z + linear.b, atol=1e-5, rtol=1e-5)
    one = traverse(linear.vae, linear.guide(), x[0], site="z1", values=values, dims=[1])
    torch.testing.assert_close(one[0], got[1])
    default = traverse(linear.vae, linear.guide(), x[0], site="z1", dims=[0])
    at_three = traverse(
        linear.vae, linear.guide(), x[0], site="z1", dims=[0], values=torch.tensor([-3.0, 3.0])
    )
    assert default.shape == (1, 7, 6)
    torch.testing.assert_close(default[0, [0, -1]], at_three[0])


@pytest.mark.parametrize("site", ["z1", "z2", "z3"])
def test_traversal_holds_the_layers_above_and_follows_below(deep, site):
    vae, guide = deep
    x = torch.randn(6)
    mean = guide.encode(x[None]).mean
    held = {s: v.clone() for s, v in mean.items() if s >= site}
    held[site][0, 1] = 2.0
    expected = vae.decode(held).mean[0]
    got = traverse(vae, guide, x, site=site, dims=[1], values=torch.tensor([2.0]))
    torch.testing.assert_close(got[0, 0], expected)


@pytest.mark.parametrize("site", ["code", "scale"])
def test_traversal_of_a_users_pair(site):
    x = torch.randn(3)
    code, scale = user_codes(x[None])
    got = traverse(user_model, user_guide, x, site=site, dims=[0], values=torch.tensor([-1.5]))
    if site == "code":
        code = torch.tensor([[-1.5, code[0, 1]]])
    else:
        scale = torch.tensor([[-1.5]]).exp()
        code = scale.expand(1, 2)
    torch.testing.assert_close(got[0], code @ W * scale)


def test_traversal_keeps_the_label():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(), condition=3)
    guide, x = BottomUp(vae), torch.randn(6)
    z = guide.encode(x[None], y=torch.tensor([2])).mean["z1"].repeat(2, 1)
    z[:, 1] = torch.tensor([-1.0, 1.0])
    expected = vae.decode(z, y=torch.tensor([2, 2])).mean
    for y in (2, torch.tensor(2)):
        got = traverse(vae, guide, x, site="z1", dims=[1], values=torch.tensor([-1.0, 1.0]), y=y)
        torch.testing.assert_close(got[0], expected)


def test_traversal_of_an_unknown_site(deep):
    with pytest.raises(ValueError, match="site: expected one of z1, z2, z3, got 'z4'"):
        traverse(*deep, torch.randn(6), site="z4")


def test_grid_is_at_normal_quantiles_as_a_picture(linear):
    axis, means = grid_2d(linear.vae, like=torch.zeros(1, 6), steps=3)
    third = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([1 / 6, 1 / 2, 5 / 6]))
    torch.testing.assert_close(axis, third)
    for row, second in enumerate(reversed(third.tolist())):
        for column, first in enumerate(third.tolist()):
            expected = linear.W @ torch.tensor([first, second]) + linear.b
            torch.testing.assert_close(means[row, column], expected, atol=1e-5, rtol=1e-5)


def test_grid_of_a_higher_layer(deep):
    vae, _ = deep
    axis, means = grid_2d(vae, like=torch.zeros(1, 6), site="z3", steps=2)
    z = torch.tensor([[axis[0], axis[1]]])
    torch.testing.assert_close(means[0, 0], vae.decode({"z3": z}).mean[0])


def test_grid_of_a_conditional_model():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(), condition=3)
    axis, means = grid_2d(vae, like=torch.zeros(1, 6), steps=2, y=1)
    z = torch.tensor([[axis[1], axis[0]]])
    torch.testing.assert_close(means[1, 1], vae.decode(z, y=torch.tensor([1])).mean[0])


def test_grid_needs_two_units(deep):
    with pytest.raises(ValueError, match=r"site 'z2': expected two units, the model has \(3,\)"):
        grid_2d(deep[0], like=torch.zeros(1, 6), site="z2")
    with pytest.raises(ValueError, match="site: expected one of z3, z2, z1, got 'z4'"):
        grid_2d(deep[0], like=torch.zeros(1, 6), site="z4")


def test_no_state_changes(deep):
    vae, guide = deep
    x = torch.randn(2, 6)
    random = torch.get_rng_state()
    reconstruct(vae, guide, x)
    interpolate(vae, guide, x[0], x[1])
    traverse(vae, guide, x[0], site="z2")
    grid_2d(vae, like=x, site="z3", steps=2)
    assert torch.equal(torch.get_rng_state(), random)
    assert vae.training
    assert guide.training
    assert not list(pyro.get_param_store().keys())


def conditional_pair():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,), condition=3)
    return vae, BottomUp(vae)


@pytest.mark.parametrize("as_y", [list, np.array])
def test_labels_in_other_forms(as_y):
    vae, guide = conditional_pair()
    x, y = torch.randn(4, 6), torch.tensor([2, 0, 1, 1])
    other = as_y(y.tolist())
    assert torch.equal(reconstruct(vae, guide, x, y=other), reconstruct(vae, guide, x, y=y))
    ends = [interpolate(vae, guide, x[0], x[1], steps=4, y=labels[:2]) for labels in (y, other)]
    assert torch.equal(*ends)
    ways = [traverse(vae, guide, x[0], site="z1", y=label) for label in (y[0], other[0])]
    assert torch.equal(*ways)
    grids = [grid_2d(vae, like=x, steps=3, y=label)[1] for label in (2, other[0])]
    assert torch.equal(*grids)


def test_starting_points_are_single_data(linear):
    pair, x = (linear.vae, linear.guide()), linear.data(6)
    message = r"^x: expected a single datum of shape \(6,\), got \(3, 6\): .* x\[0\]$"
    with pytest.raises(ValueError, match=message):
        traverse(*pair, x[:3], site="z1")
    with pytest.raises(ValueError, match=r"start and end: .* shapes, got \(6,\) and \(3, 6\)$"):
        interpolate(*pair, x[0], x[3:])
    with pytest.raises(ValueError, match=r"^start: expected one datum of shape \(6,\) or several"):
        interpolate(*pair, x[:, :5], x[:, :5])
    with pytest.raises(ValueError, match=r"start and end: .* equal shapes, got \(3,\) and \(2,\)"):
        interpolate(user_model, user_guide, torch.zeros(3), torch.zeros(2))


def test_data_are_tensors(linear):
    pair, data = (linear.vae, linear.guide()), Dataset(linear.data(3))
    for call in (
        lambda: reconstruct(*pair, data),
        lambda: interpolate(*pair, data, data),
        lambda: traverse(*pair, data, site="z1"),
    ):
        with pytest.raises(TypeError, match=r"expected a tensor .* got Dataset: pass its .x"):
            call()


def _of_pairs(x):
    yield lambda *pair: infer.reconstruct(*pair, x)
    yield lambda *pair: infer.mean_squared_error(*pair, x)
    yield lambda *pair: infer.interpolate(*pair, x[:2], x[2:])
    yield lambda *pair: infer.traverse(*pair, x[0], site="z1")
    yield lambda *pair: plots.reconstructions(*pair, x)


def _of_models(x):
    yield lambda model: infer.grid_2d(model, like=x)
    yield lambda model: plots.samples(model, 2, like=x)
    yield lambda model: plots.conditional(model, like=x)
    yield lambda model: plots.layer_samples(model, "z1", like=x)


def test_what_is_no_program_is_told_by_its_name(linear):
    x, vae, guide = linear.data(4), linear.vae, linear.guide()
    for run in _of_pairs(x):
        for pair, name in (((vae, "prior"), "guide"), (("prior", guide), "model")):
            with pytest.raises(TypeError, match=f"{name}: expected a Pyro program, an nn.Module"):
                run(*pair)
        with pytest.raises(TypeError, match="guide: expected a Pyro program, got the class Bott"):
            run(vae, BottomUp)
    for run in _of_models(x):
        with pytest.raises(TypeError, match=r"model: expected a Pyro program, an nn.Module"):
            run("prior")
    with pytest.raises(TypeError, match=r"guide: expected a Pyro program, an nn.Module"):
        plots.latent_scatter("prior", x)
