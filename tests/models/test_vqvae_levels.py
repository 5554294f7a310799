"""VQ-VAEs of several levels, with classes, and with every quantiser: one contract."""

import copy
import json
import math

import pyro
import pytest
import torch
from torch import nn

from pyro_vae import (
    Trainer,
    codebooks,
    diagnostics,
    guides,
    handlers,
    infer,
    likelihoods,
    load,
    models,
    plots,
    priors,
)
from pyro_vae.codebooks import FiniteScalar, Gradient, LookupFree, MovingAverage, Residual

SIZES = {
    "channels": (4, 5),
    "blocks": 1,
    "activation": nn.ELU,
    "likelihood": likelihoods.Bernoulli(),
}
BOOKS = {
    "residual": lambda: Residual(2, MovingAverage(6, 3)),
    "residual by gradient": lambda: Residual(2, Gradient(6, 3)),
    "finite scalar": lambda: FiniteScalar((3, 2, 4)),
    "lookup-free": lambda: LookupFree(4),
    "levels": lambda: [MovingAverage(6, 3), Gradient(5, 2)],
    "levels of kinds": lambda: [FiniteScalar((3, 3)), Residual(2, MovingAverage(4, 2))],
    "three levels": lambda: [MovingAverage(6, 3), LookupFree(2), MovingAverage(4, 2)],
}
FACTORS = {
    "residual": {"z1": 4 * 2 * math.log(6)},
    "residual by gradient": {"z1": 4 * 2 * math.log(6)},
    "finite scalar": {"z1": 4 * math.log(24)},
    "lookup-free": {"z1": 4 * math.log(16)},
    "levels": {"z1": 4 * math.log(6), "z2": math.log(5)},
    "levels of kinds": {"z1": 4 * math.log(9), "z2": 2 * math.log(4)},
    "three levels": {"z1": 16 * math.log(6), "z2": 4 * math.log(4), "z3": math.log(4)},
}


def side(name):
    return 16 if name == "three levels" else 8


def pair(name, **options):
    vqvae = models.VQVAE((1, side(name), side(name)), codebook=BOOKS[name](), **SIZES, **options)
    return vqvae, guides.NearestCode(vqvae)


def data(n, condition=0, side=8):
    x = torch.randint(2, (n, 1, side, side)).float()
    return x, torch.arange(n) % condition if condition else None


def state(*programs):
    return [t.clone() for p in programs for t in (*p.parameters(), *p.buffers())]


@pytest.fixture(params=[(name, k) for name in BOOKS for k in (0, 3)], ids=str)
def kind(request):
    return request.param


def test_kl_is_positions_times_log_codes_of_each_site(kind):
    name, condition = kind
    vqvae, guide = pair(name, condition=condition)
    x, y = data(5, condition, side(name))
    assert infer.check_pair(vqvae, guide, x, y=y).latents == {
        site: (*shape, vqvae.codebooks[site].codes) for site, shape in vqvae.code_shapes.items()
    }
    terms = infer.elbo_terms(vqvae, guide, x, y=y)
    assert list(terms.kl) == list(vqvae.latents)
    for site, nats in FACTORS[name].items():
        torch.testing.assert_close(terms.kl[site], torch.full((5,), nats))
    codes = guide.codes(x)
    p_x = vqvae.decode(codes, y=y)
    torch.testing.assert_close(p_x.log_prob(x), terms.reconstruction)
    torch.testing.assert_close(
        infer.importance(vqvae, guide, x, y=y, samples=3).log_likelihood,
        terms.elbo,
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", BOOKS)
def test_bits_per_dimension_are_those_of_the_bound(name):
    options = {**SIZES, "likelihood": likelihoods.Categorical(4)}
    size = side(name)
    vqvae = models.VQVAE((1, size, size), codebook=BOOKS[name](), **options)
    guide, x = guides.NearestCode(vqvae), torch.randint(4, (6, 1, size, size)) / 3
    with torch.no_grad():
        log_p = vqvae.decode(guide.codes(x)).log_prob(x) - sum(FACTORS[name].values())
    result = diagnostics.evaluate(vqvae, guide, x, importance_samples=0)
    (bits,) = (mean for quantity, mean, _, unit in result.rows() if unit == "bits/dim")
    assert bits == pytest.approx(-float(log_p.mean()) / (size**2 * math.log(2)), rel=1e-5)


def test_recorded_steps_equal_eager_ones(kind):
    name, condition = kind
    programs = pair(name, condition=condition)
    twins, runs = copy.deepcopy(programs), []
    batches = [data(4, condition, side(name)) for _ in range(12)]
    for each, engine in ((programs, "eager"), (twins, "graph")):
        svi = infer.SVI(*each, engine=engine)
        with torch.random.fork_rng():
            runs.append(
                [float(svi.step(x, **({"y": y} if condition else {}))) for x, y in batches]
            )
    assert runs[0] == runs[1]
    both = zip(state(*programs), state(*twins), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_all_that_is_learnt_is_trained_by_stock_pyro(kind):
    name, condition = kind
    vqvae, guide = pair(name, condition=condition)
    x, y = data(30, condition, side(name))
    labels = {"y": y} if condition else {}
    guide(x, **labels)  # first codes
    before = [p.detach().clone() for m in (vqvae, guide) for p in m.parameters()]
    svi = pyro.infer.SVI(vqvae, guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
    losses = [svi.step(x, **labels) for _ in range(15)]
    assert losses[-1] < losses[0]
    after = [p for m in (vqvae, guide) for p in m.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_run_continues_from_its_file_to_the_last_bit(kind, tmp_path):
    name, condition = kind
    programs, given = pair(name, condition=condition), data(40, condition, side(name))
    trainer = Trainer(*programs, seed=0).fit(given, epochs=1, batch_size=20, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert repr(again) == repr(trainer)
    for each in (trainer, again):
        each.fit(given, epochs=2, batch_size=20, progress=False)
    both = zip(state(*programs), state(again.model, again.guide), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_pictures_tables_and_samples(kind):
    name, condition = kind
    vqvae, guide = pair(name, condition=condition)
    x, y = data(12, condition, side(name))
    prior = priors.CodePrior(vqvae, width=4, layers=1)
    prior.fit(guide, (x, y), epochs=1, progress=False)
    one = None if y is None else 1
    assert vqvae.sample(3, prior=prior, y=one).shape == (3, *vqvae.event_shape)
    assert vqvae.sample(3, prior="uniform", y=one).shape == (3, *vqvae.event_shape)
    plots.completions(vqvae, guide, prior, x[:2], y=None if y is None else y[:2], n=2)
    for site, book in vqvae.codebooks.items():
        for step in range(math.prod(book.stack)):
            plots.codes(vqvae, site=site, step=step, y=one)
    use = diagnostics.codebook(vqvae, guide, (x, y))
    books = getattr(use, "books", {"z1": use})
    assert json.loads(json.dumps(use.to_dict()))
    codes = guide.codes(x)
    codes = {"z1": codes} if isinstance(codes, torch.Tensor) else codes
    assert sum(b.counts.sum() for b in books.values()) == sum(c.numel() for c in codes.values())
    for book, used in books.items():
        site, _, step = book.removesuffix("]").partition("[")
        index = codes[site][..., int(step)] if step else codes[site]
        assert used.used == len(index.unique()), book
        assert book in str(use) or len(books) == 1


def test_the_finer_level_is_encoded_given_the_codes_of_the_coarser():
    vqvae, guide = pair("levels")
    x, _ = data(6)
    seen = {}

    outputs = []
    for other in (0.0, 1.0):

        def told(level, z, other=other):
            seen[level] = z
            return torch.full_like(z, other if level == 1 else 0.0)

        guide.encoder(x, told)
        outputs.append(dict(seen))
    assert torch.equal(outputs[0][1], outputs[1][1])
    assert not torch.equal(outputs[0][0], outputs[1][0])
    # And the decoder sees both
    e = [torch.randn(2, 2, 2, 3), torch.randn(2, 1, 1, 2)]
    base = vqvae.decoder(*e)
    assert not torch.equal(vqvae.decoder(e[0] + 1, e[1]), base)
    assert not torch.equal(vqvae.decoder(e[0], e[1] + 1), base)


def test_levels_may_be_given_by_number():
    vqvae = models.VQVAE((1, 8, 8), 6, 3, levels=2, **SIZES)
    assert vqvae.latents == ("z2", "z1")
    assert vqvae.codebooks["z1"] is vqvae.codebook is not vqvae.codebooks["z2"]
    assert vqvae.grids == {"z2": (1, 1), "z1": (2, 2)}
    structure = infer.structure(vqvae, like=torch.zeros(2, 1, 8, 8))
    assert structure.parents == {"z2": (), "z1": (), "x": ("z1", "z2")}
    assert "p(x, z1, z2) = p(x|z1,z2) p(z1) p(z2)" in repr(vqvae)
    text = repr(guides.NearestCode(vqvae, gradient=codebooks.Rotation()))
    assert "q(z2|x) = nearest of 6 codes, q(z1|x,z2) = nearest of 6 codes" in text
    assert text.splitlines()[1].endswith("commitment 0.25, Rotation()")


def test_the_decoder_sees_the_class():
    for options in ({}, {"hidden": (5,), "channels": (4,)}):
        vqvae = models.VQVAE((1, 8, 8), 6, 3, **{**SIZES, **options}, condition=3).eval()
        z = torch.zeros(1, *vqvae.grid_shape, dtype=torch.long)
        first, second = (vqvae.decode(z, y=y).mean for y in (0, 1))
        assert not torch.equal(first, second)
        assert "p(x, z1|y) = p(x|z1,y) p(z1)" in repr(vqvae)
        guide, x = guides.NearestCode(vqvae), torch.randint(2, (6, 1, 8, 8)).float()
        both = [infer.elbo_terms(vqvae, guide, x, y=torch.full((6,), y)).elbo for y in (0, 1)]
        assert not torch.equal(*both)
        assert vqvae.sample(4, y=2, prior="uniform").shape == (4, 1, 8, 8)
        with pytest.raises(ValueError, match="y: this model is conditional on 3 classes"):
            vqvae.sample(4, prior="uniform")
        with pytest.raises(ValueError, match="expected labels from 0 to 2"):
            vqvae.decode(z, y=3)


class Joined(nn.Module):
    """A decoder of a person's own: two grids and labels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4 * 3 + 2 + 3, 64)

    def forward(self, fine, coarse, labels):
        h = torch.cat([fine.flatten(1), coarse.flatten(1), labels], 1)
        return self.layer(h).unflatten(1, (1, 8, 8))


class Both(nn.Module):
    """An encoder of a person's own for two levels."""

    def __init__(self, coarse=2):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, coarse), nn.Linear(64 + 2, 12)])

    def forward(self, x, quantise):
        x = x.flatten(1)
        e = quantise(1, self.layers[0](x).reshape(len(x), 1, 1, -1))
        h = torch.cat([x, e.flatten(1)], 1)
        quantise(0, self.layers[1](h).reshape(len(x), 2, 2, 3))


def test_own_networks_of_levels():
    vqvae = models.VQVAE(
        (1, 8, 8), codebook=BOOKS["levels"](), condition=3, decoder=Joined(), **SIZES
    )
    guide = guides.NearestCode(vqvae, encoder=Both())
    x, y = data(6, 3)
    Trainer(vqvae, guide, seed=0).fit((x, y), epochs=1, progress=False)
    assert {s: tuple(c.shape) for s, c in guide.codes(x).items()} == {
        "z2": (6, 1, 1),
        "z1": (6, 2, 2),
    }
    with pytest.raises(ValueError, match=r"encoder: expected outputs of \(1, 1, 2\) for 'z2'"):
        guides.NearestCode(vqvae, encoder=Both(coarse=5))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"levels": 0}, ValueError, "levels: expected a whole number of at least 1, got 0"),
        (
            {"levels": 2, "codebook": FiniteScalar((3,))},
            ValueError,
            "codebook: expected one for each level, got 1 of 2",
        ),
        ({"codebook": []}, ValueError, "codebook: expected one for each level, got 0"),
        ({"codebook": [FiniteScalar((3,)), None]}, TypeError, "codebook: expected an instance"),
        (
            {"levels": 2, "hidden": (4,)},
            ValueError,
            "levels: expected data that networks convolve.* leave out hidden",
        ),
        ({"condition": -1}, ValueError, "condition: expected the number of classes, got -1"),
        ({"levels": 3}, ValueError, r"levels: expected each grid coarser .* pass fewer"),
        ({"levels": 2, "grid": (3, 3)}, ValueError, r"grid: expected \(2, 2\)"),
    ],
)
def test_what_does_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        models.VQVAE((1, 8, 8), **{**SIZES, **options})
    with pytest.raises(
        ValueError, match=r"levels: expected data that networks convolve.* pass one codebook"
    ):
        models.VQVAE((5,), levels=2, **SIZES)


def test_decoding_asks_for_all_levels():
    vqvae, guide = pair("levels")
    codes = guide.codes(data(3)[0])
    with pytest.raises(ValueError, match="z: expected the sites 'z2' and 'z1', got"):
        vqvae.decode({"z1": codes["z1"]})
    with pytest.raises(ValueError, match="z: expected codes from 0 to 4, got"):
        vqvae.decode({**codes, "z2": codes["z2"] + 5})
    with pytest.raises(ValueError, match="step: expected 0 to 0, got 1"):
        plots.codes(vqvae, step=1)
    with pytest.raises(ValueError, match="site: expected one of z2, z1, got 'z3'"):
        plots.codes(vqvae, site="z3")


def test_beta_of_each_level():
    vqvae, guide = pair("levels")
    x, _ = data(4)
    plain = infer.TraceELBO()(vqvae.eval(), guide.eval(), x)[0]
    scaled = [handlers.scale_latents(p, {"z2": 3.0}) for p in (vqvae, guide)]
    loss, terms = infer.TraceELBO()(*scaled, x)
    torch.testing.assert_close(loss - plain, 2 * terms.kl["z2"].sum())
