"""Guides of ladders whose latents are maps."""

import copy
import io

import pytest
import torch
from torch import nn

from pyro_vae import (
    Trainer,
    conditionals,
    data,
    guides,
    handlers,
    infer,
    likelihoods,
    load,
    networks,
    priors,
)
from pyro_vae.models import VAE

SHAPES = ((4, 5, 4), (6, 3, 2), 5)


def ladder(latents=SHAPES, event_shape=(1, 9, 7), **options):
    torch.manual_seed(0)
    options = {"likelihood": likelihoods.Bernoulli(), **options}
    return VAE(event_shape, latents, **options)


@pytest.fixture
def x():
    return (torch.rand(20, 1, 9, 7, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def loss_and_gradients(model, guide, x):
    torch.manual_seed(3)
    loss, _ = infer.TraceELBO()(model, guide, x)
    parts = [*model.parameters(), *guide.parameters()]
    return loss, torch.autograd.grad(loss, parts)


@pytest.mark.parametrize("upward", ["activations", "means"])
def test_maps_of_one_position_are_merged_as_vectors(upward):
    maps = ladder(((3, 1, 1), (2, 1, 1)), (6, 1, 1))
    vectors = ladder((3, 2), (6,), hidden=(32,))
    pairs = [maps, vectors], [guides.Ladder(v, upward=upward) for v in (maps, vectors)]
    with torch.no_grad():
        for of_maps, of_vectors in pairs:
            # All a convolution sees of one position is its middle
            for a, b in zip(of_maps.parameters(), of_vectors.parameters(), strict=True):
                middle = a[..., a.shape[-2] // 2, a.shape[-1] // 2] if a.dim() == 4 else a
                b.copy_(middle)
    x = torch.rand(8, 6).round()
    found = [
        loss_and_gradients(pairs[0][i], pairs[1][i], v)
        for i, v in enumerate((x[..., None, None], x))
    ]
    (loss, gradients), (expected, others) = found
    torch.testing.assert_close(loss, expected)
    for a, b in zip(gradients, others, strict=True):
        middle = a[..., a.shape[-2] // 2, a.shape[-1] // 2] if a.dim() == 4 else a
        torch.testing.assert_close(middle, b, rtol=1e-4, atol=1e-5)


def test_a_map_is_merged_element_by_element(x):
    vae = ladder()
    guide = guides.Ladder(vae)
    z3 = torch.randn(20, 5)
    p = vae.conditional("z2", {"z3": z3})
    drawn = infer.encode(guide, x)
    assert drawn.mean["z2"].shape == (20, 6, 3, 2)
    q = guide.heads["z2"](guide.networks["z2"](guide.networks["z1"](x)))
    merged = conditionals.precision_weighted(q, p)
    assert merged.event_shape == (6, 3, 2)
    precision = q.base_dist.scale**-2 + p.base_dist.scale**-2
    loc = (q.mean * q.base_dist.scale**-2 + p.mean * p.base_dist.scale**-2) / precision
    torch.testing.assert_close(merged.mean, loc)
    torch.testing.assert_close(merged.base_dist.scale, precision.rsqrt())


def test_twelve_layers_train():
    sizes = [8] * 3 + [4] * 3 + [2] * 3 + [1] * 2
    shapes = [(3, s, s) for s in sizes] + [4]
    vae = ladder(shapes, (1, 8, 8), norm=nn.BatchNorm1d, channels=(8, 8), skip=False)
    assert len(vae.latents) == 12
    x = (torch.rand(64, 1, 8, 8) < torch.linspace(0.1, 0.9, 8)).float()
    trainer = Trainer(vae, guides.Ladder(vae), lr=3e-3, seed=0, engine="eager")
    trainer.fit(x, epochs=5, batch_size=16, progress=False)
    elbos = [row["elbo"] for row in trainer.history]
    assert elbos[-1] > elbos[0]
    terms = infer.elbo_terms(vae, trainer.guide, x)
    assert terms.elbo.isfinite().all() and len(terms.kl) == 12


@pytest.mark.parametrize(
    ("make", "norm"),
    [
        (guides.Ladder, None),
        (guides.Ladder, nn.BatchNorm1d),
        (guides.BottomUp, networks.WeightNorm()),
    ],
)
def test_the_graph_engine_does_what_eager_does(x, make, norm):
    weights = []
    for engine in ("eager", "graph"):
        vae = ladder(norm=norm, skip=True)
        trainer = Trainer(vae, make(vae), engine=engine, seed=0)
        trainer.fit(x, epochs=4, batch_size=10, progress=False)
        weights.append([p.detach().clone() for m in trainer.modules() for p in m.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("norm", [None, networks.WeightNorm(), networks.GroupNorm(2)])
def test_files_hold_them(x, norm, tmp_path):
    vae = ladder(norm=norm, channels=(8, 12), blocks=1)
    trainer = Trainer(vae, guides.Ladder(vae, hidden=(16,)), seed=0)
    trainer.fit(x, epochs=1, batch_size=10, progress=False)
    trainer.save(tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    bounds = []
    for pair in (trainer, again):
        torch.manual_seed(0)
        bounds.append(infer.elbo_terms(pair.model, pair.guide, x).elbo)
    assert torch.equal(*bounds)
    assert again.model.latent_shapes == vae.latent_shapes


def test_a_file_holds_a_second_network_for_sigma(x, tmp_path):
    vae = ladder(likelihood=likelihoods.Gaussian("learned"))
    trainer = Trainer(vae, guides.Ladder(vae), seed=0)
    vae.predict_sigma()
    trainer.fit(x, epochs=1, batch_size=10, progress=False)
    trainer.save(tmp_path / "model.pt")
    z = {"z1": torch.randn(3, 4, 5, 4)}
    expected, found = vae.decode(z), load(tmp_path / "model.pt").model.decode(z)
    assert torch.equal(found.mean, expected.mean) and torch.equal(found.stddev, expected.stddev)


def test_conditionals_of_ones_own(x, tmp_path):
    network = networks.MapNetwork([(6, 3, 2)], [(3, 2), (5, 4)], [7, 8])
    own = conditionals.DiagonalNormal(network, 8, (4, 5, 4))
    vae = ladder(top_down={"z1": own})
    trainer = Trainer(vae, guides.Ladder(vae), seed=0)
    trainer.fit(x, epochs=1, batch_size=10, progress=False)
    trainer.save(tmp_path / "model.pt")
    z = {"z2": torch.randn(3, 6, 3, 2)}
    expected = vae.conditional("z1", z).mean
    assert torch.equal(load(tmp_path / "model.pt").model.conditional("z1", z).mean, expected)
    wrong = ladder(top_down={"z1": conditionals.DiagonalNormal(network, 8, (3, 5, 4))})
    with pytest.raises(ValueError, match=r"site 'z1': expected .* of shape \(4, 5, 4\) per datum"):
        infer.check_pair(wrong, guides.Ladder(wrong), x)


def test_a_pair_is_copied(x):
    vae = ladder(norm=networks.WeightNorm())
    model, guide = copy.deepcopy((vae, guides.Ladder(vae)))
    assert guide.model is model
    buffer = io.BytesIO()
    torch.save(vae, buffer)
    buffer.seek(0)
    pickled = torch.load(buffer, weights_only=False)
    torch.manual_seed(0)
    drawn = vae.sample(2)
    torch.manual_seed(0)
    assert torch.equal(pickled.sample(2), drawn)


def test_beta_and_free_bits_are_per_map(x):
    vae = ladder()
    guide = guides.Ladder(vae)

    def objective(beta=None, nats=None):
        model, q = vae, guide
        if beta is not None:
            model, q = (handlers.scale_latents(p, beta) for p in (vae, guide))
        if nats is not None:
            q = handlers.free_bits(guide, nats)
        torch.manual_seed(0)
        loss, _ = infer.TraceELBO(reduction="mean")(model, q, x)
        return loss

    torch.manual_seed(0)
    terms = infer.elbo_terms(vae, guide, x)
    kl = {site: float(value.mean()) for site, value in terms.kl.items()}
    assert min(kl.values()) > 0
    plain = objective()
    torch.testing.assert_close(
        objective(beta={"z1": 0.5, "z2": 1.0, "z3": 1.0}), plain - kl["z1"] / 2
    )
    torch.testing.assert_close(objective(nats={"z2": 1000.0}), plain - kl["z2"] + 1000)


def test_kl_of_each_position(x):
    vae = ladder()
    guide = guides.Ladder(vae)
    terms = infer.elbo_terms(vae, guide, x, per_unit=True)
    for site, shape in vae.latent_shapes.items():
        assert terms.per_unit[site].shape == (20, *shape)
        torch.testing.assert_close(terms.per_unit[site].flatten(1).sum(1), terms.kl[site])


def test_a_flow_or_a_covariance_is_of_vectors_alone(x):
    vae = ladder()
    for make in (guides.Flow, guides.FullCovariance):
        names = {s: type(c).__name__ for s, c in make(vae).conditionals.items()}
        assert names["z1"] == names["z2"] == "DiagonalNormal" != names["z3"]
        with pytest.raises(ValueError, match=r"maps, which get .*normals: use guides\.BottomUp"):
            make(ladder(((4, 5, 4),)))


@pytest.mark.parametrize(
    "make",
    [
        lambda vae, x: guides.SemiAmortized(guides.Ladder(vae)),
        guides.PerDatum,
        lambda vae, x: guides.Composed(
            guides.BottomUp(vae, sites=["z1"]), guides.BottomUp(vae, sites=["z2", "z3"])
        ),
        lambda vae, x: guides.Delta(vae),
        lambda vae, x: guides.Ladder(vae, like=x),
        lambda vae, x: guides.BottomUp(vae, order="top-down"),
        lambda vae, x: guides.BottomUp(vae, encoder=nn.Sequential(nn.Flatten(), nn.Linear(63, 9))),
        lambda vae, x: guides.Ladder(vae, encoder=nn.Sequential(nn.Flatten(), nn.Linear(63, 9))),
    ],
)
def test_other_guides_of_maps(x, make):
    vae = ladder()
    guide = make(vae, x)
    infer.check_pair(vae, guide, x)
    trainer = Trainer(vae, guide, seed=0).fit(x, epochs=1, batch_size=10, progress=False)
    assert {s: z.shape[1:] for s, z in trainer.guide.encode(x).mean.items()} == vae.latent_shapes


def test_a_guide_grows_from_one_of_maps(x):
    vae = ladder()
    start = guides.BottomUp(vae)
    for make in (guides.BottomUp, guides.Flow, guides.FullCovariance):
        grown = make(vae, start=start)
        bounds = []
        for guide in (start, grown):
            torch.manual_seed(0)
            bounds.append(infer.elbo_terms(vae, guide, x).elbo)
        torch.testing.assert_close(*bounds)


def test_hidden_widths_of_guides_are_those_of_vectors():
    vae = ladder(hidden=(30,))
    assert vae.hidden == (None, None, (30,))
    guide = guides.Ladder(vae, hidden=[(20, 10)])
    assert [layer.out_features for layer in guide.networks["z3"].layers] == [20, 10]
    with pytest.raises(ValueError, match=r"one tuple per latent layer \(1\)"):
        guides.Ladder(vae, hidden=[(20,), (10,)])


def test_a_second_stage_on_the_vector_above_maps(x):
    vae = ladder()
    guide = guides.BottomUp(vae)
    prior = priors.TwoStage(5, hidden=(8,)).fit(vae, guide, x, epochs=1)
    model, stacked = prior.stack(vae, guide)
    assert model.latent_shapes == {"z4": (5,), **vae.latent_shapes}
    assert infer.elbo_terms(model, stacked, x).elbo.isfinite().all()


def test_a_mixture_of_the_aggregate_posterior_is_of_the_vector_on_top(x):
    vae = ladder()
    prior = priors.AggregatePosterior(2).fit(vae, guides.Ladder(vae), x)
    assert vae.sample(3, prior=prior).shape == (3, 1, 9, 7)
    flat = ladder(((4, 5, 4),))
    with pytest.raises(ValueError, match=r"site 'z1': expected vectors .* latents=\(.*, 32\)"):
        priors.AggregatePosterior(2).fit(flat, guides.BottomUp(flat), x)


def test_datasets_of_colour_train(x):
    vae = ladder(((4, 4, 4), (4, 2, 2)), (3, 8, 8), likelihood=likelihoods.DiscretizedLogistic())
    images = data.Dataset(torch.randint(256, (16, 3, 8, 8)) / 255)
    trainer = Trainer(vae, guides.Ladder(vae), seed=0)
    trainer.fit(images, epochs=1, batch_size=8, progress=False)
    assert trainer.history[-1]["elbo"] < 0
