import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import data, diagnostics, guides, infer, likelihoods
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 3


def pair(latents=(4, 2), guide=guides.BottomUp, **options):
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian(), hidden=(8,), **options)
    return vae, guide(vae)


def test_numbers_are_those_of_independent_computations():
    vae, guide = pair()
    found, terms = diagnostics.layers(vae, guide, X), infer.elbo_terms(vae, guide, X)
    means = guide.encode(X).mean
    assert [layer.site for layer in found] == ["z1", "z2"]
    for layer in found:
        torch.testing.assert_close(layer.kl, terms.kl[layer.site], rtol=0, atol=0)
        mean = means[layer.site].detach()
        torch.testing.assert_close(layer.means, mean)
        assert layer.active.tolist() == (mean.var(0, correction=0) > 0.01).tolist()
        # Principal components by a singular value decomposition
        u, s, _ = torch.linalg.svd((mean - mean.mean(0)).double(), full_matrices=False)
        ratios = (s.square() / s.square().sum()).float()
        torch.testing.assert_close(layer.explained_variance_ratio, ratios, atol=1e-5, rtol=1e-4)
        expected = (u * s)[:, :2].float()
        sign = (layer.projection * expected).sum(0).sign()
        torch.testing.assert_close(layer.projection * sign, expected, atol=1e-5, rtol=1e-3)
    parts = diagnostics.layers(vae, guide, X, batch_size=7)
    for layer, part in zip(found, parts, strict=True):
        torch.testing.assert_close(layer.projection, part.projection, atol=1e-5, rtol=1e-3)


def test_closed_form_of_a_linear_gaussian_model(linear):
    x = linear.data(2000)
    (layer,) = diagnostics.layers(linear.vae, linear.guide(), x)
    mean, sd = linear.posterior(x)
    kl = linear.kl(mean, sd).mean()
    error = layer.kl.std() / 2000**0.5
    assert abs(layer.kl.mean() - kl) < 4 * error
    torch.testing.assert_close(layer.means, mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("threshold", "active"), [(0.01, 3), (0.5, 2), (2.0, 1), (50.0, 0)])
def test_the_threshold_counts(threshold, active):
    vae, guide = pair(4)
    head = guide.conditionals["z1"]
    head.network, head.loc, head.raw_scale = nn.Identity(), nn.Linear(6, 4), nn.Linear(6, 4)
    x = (X - X.mean(0)) / X.std(0, correction=0)
    with torch.no_grad():
        head.loc.weight.zero_().fill_diagonal_(1.0).mul_(torch.tensor([[2.0], [1.0], [0.5], [0]]))
    found = diagnostics.layers(vae, guide, x, threshold=threshold)
    assert int(found["z1"].active.sum()) == active
    assert f"{active} of 4" in str(found) and f"above {threshold:g}" in str(found)


def test_nothing_changes():
    vae, _ = pair()
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    guide = guides.BottomUp(vae, encoder=encoder)
    vae.decoder.eval()
    before = [t.clone() for p in (vae, guide) for t in p.state_dict().values()]
    modes = [m.training for p in (vae, guide) for m in p.modules()]
    state = torch.get_rng_state()
    diagnostics.layers(vae, guide, data.Dataset(X.sigmoid(), binarize="dynamic"))
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [m.training for p in (vae, guide) for m in p.modules()]
    after = [t for p in (vae, guide) for t in p.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_tables():
    vae, guide = pair((6, 2))
    found = diagnostics.layers(vae, guide, X)
    text, page = str(found), found.to_html()
    assert repr(found) == text and text.startswith("40 data; standard errors")
    for layer in found:
        error = float(layer.kl.std()) / math.sqrt(40)
        kl = f"{round(float(layer.kl.mean()), 2) + 0.0:.2f} +- {error:.2f}"
        assert kl in text and kl.replace("+-", "&plusmn;") in page
    assert "(others " in text.splitlines()[2] and "(others " not in text.splitlines()[3]
    assert page.count("<tr>") == 3
    with pytest.raises(KeyError, match=r"expected one of \('z1', 'z2'\), got 'z3'"):
        found["z3"]
    assert found[0] is found["z1"] and len(found) == 2


def test_a_point_mass_is_told():
    vae, guide = pair(guide=guides.Delta)
    found = diagnostics.layers(vae, guide, X)
    assert "z1 (-log p)" in str(found)
    torch.testing.assert_close(
        found["z2"].kl, -dist.Normal(0.0, 1.0).log_prob(found["z2"].means).sum(-1)
    )


def test_one_unit_one_datum_and_no_variance():
    vae, guide = pair((3, 1))
    found = diagnostics.layers(vae, guide, X)
    assert (found["z2"].projection[:, 1] == 0).all() and found["z2"].size == 1
    constant = diagnostics.layers(vae, guide, X[:1].expand(5, 6))
    assert not constant["z1"].active.any() and "0%" in str(constant)
    assert (constant["z1"].explained_variance_ratio == 0).all()
    assert "nan" not in str(diagnostics.layers(vae, guide, X[:1]))


class Grid(nn.Module):
    """Latents with two event dimensions and names of their own."""

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("grid", dist.Normal(torch.zeros(len(x), 2, 3), 1.0).to_event(2))
            pyro.sample("pixels", dist.Normal(z.flatten(1), 1.0).to_event(1), obs=x)


def test_other_shapes_are_flattened():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("grid", dist.Normal(x.unflatten(1, (2, 3)) / 2, 0.7).to_event(2))

    found = diagnostics.layers(Grid(), guide, X)
    torch.testing.assert_close(found["grid"].means, X / 2)
    assert found["grid"].size == 6


@pytest.mark.parametrize("given", ["dataset", "argument", "none"])
def test_picture(given):
    vae, guide = pair()
    d = data.Dataset(X, Y, names=("a", "b", "c")) if given == "dataset" else X
    found = diagnostics.layers(vae, guide, d)
    figure = found.plot(Y if given == "argument" else None)
    assert [ax.get_title() for ax in figure.axes] == ["z1", "z2"]
    for ax, layer in zip(figure.axes, found, strict=True):
        points = np.concatenate([c.get_offsets() for c in ax.collections])
        expected = layer.projection if given == "none" else layer.projection[Y.argsort()]
        order = np.lexsort(points.T), np.lexsort(expected.numpy().T)
        np.testing.assert_allclose(points[order[0]], expected.numpy()[order[1]], rtol=1e-6)
        share = float(layer.explained_variance_ratio[0])
        assert ax.get_xlabel() == f"component 1 ({share:.0%})"
    legends = [ax.get_legend() for ax in figure.axes]
    assert legends[0] is None and (legends[1] is None) is (given == "none")
    if given != "none":
        names = [t.get_text() for t in legends[1].get_texts()]
        assert names == (["a", "b", "c"] if given == "dataset" else ["0", "1", "2"])


def test_many_layers_are_in_rows():
    vae, guide = pair((5, 4, 3, 2))
    figure = diagnostics.layers(vae, guide, (X, Y)).plot()
    assert [ax.get_title() for ax in figure.axes] == ["z1", "z2", "z3", "z4"]
    assert [ax.get_legend() is not None for ax in figure.axes] == [False, False, True, False]


def test_bad_arguments():
    vae, guide = pair()
    with pytest.raises(ValueError, match="threshold: expected a positive finite number"):
        diagnostics.layers(vae, guide, X, threshold=0.0)
    with pytest.raises(ValueError, match=r"site 'x': expected shape \(n, 6\)"):
        diagnostics.layers(vae, guide, X[:, :3])
    with pytest.raises(ValueError, match="labels: expected 40 labels"):
        diagnostics.layers(vae, guide, X).plot(Y[:3])


def test_a_kl_that_rounds_to_zero_has_no_minus_sign():
    vae, guide = pair()
    found = diagnostics.layers(vae, guide, X)
    kl = torch.full((40,), -0.003)
    shown = dataclasses.replace(found, layers=(dataclasses.replace(found.layers[0], kl=kl),))
    assert shown.rows()[0][1] == "0.00 +- 0.00"
