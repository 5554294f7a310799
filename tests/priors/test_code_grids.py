"""Priors over grids of one, two and three dimensions, stacks, levels and classes."""

import itertools
import math

import pytest
import torch
from chance import LEVEL, chance_of

from pyro_vae import Trainer, codebooks, guides, handlers, infer, likelihoods, load, models
from pyro_vae.priors import CodePrior


def vectors(codebook, grid, **options):
    """A pair on vectors with a grid of any shape."""
    likelihood = likelihoods.Bernoulli()
    options = {"hidden": (8,), "grid": grid, "likelihood": likelihood, **options}
    vqvae = models.VQVAE((6,), codebook=codebook, **options)
    return vqvae, guides.NearestCode(vqvae)


def two_levels(**options):
    """Four positions of two codes under one of three."""
    books = [codebooks.Gradient(2, 3, initializer=None), codebooks.Gradient(3, 2)]
    sizes = {"channels": (4,), "blocks": 1, "likelihood": likelihoods.Bernoulli()}
    vqvae = models.VQVAE((1, 4, 4), codebook=books, **sizes, **options)
    return vqvae, guides.NearestCode(vqvae)


def stack(n, codes):
    return codebooks.Residual(n, codebooks.Gradient(codes, 3, initializer=None))


KINDS = {
    "row": lambda: vectors(codebooks.Gradient(3, 2), 4),
    "image": lambda: vectors(codebooks.Gradient(2, 2), (2, 3)),
    "frames": lambda: vectors(codebooks.Gradient(2, 2), (2, 2, 2)),
    "frames of rows": lambda: vectors(codebooks.Gradient(2, 2), (3, 1, 2)),
    "four dimensions": lambda: vectors(codebooks.Gradient(2, 2), (1, 2, 2, 2)),
    "stack on a row": lambda: vectors(stack(2, 3), 2),
    "stack on an image": lambda: vectors(stack(2, 2), (2, 2)),
    "stack on frames": lambda: vectors(stack(3, 2), (2, 1, 1)),
    "finite scalar": lambda: vectors(codebooks.FiniteScalar((2, 3)), 3),
    "levels": two_levels,
}


def jittered(vqvae, width=6):
    """A prior away from its start, said to be fitted."""
    prior = CodePrior(vqvae, width=width, layers=3)
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.5 * torch.randn_like(p))
    prior.fitted_on.fill_(1)
    return prior


def all_grids(vqvae):
    """All codes in the order in which they are drawn, (m, codes in all), and as grids."""
    shapes = vqvae.code_shapes
    ranges = [
        range(vqvae.codebooks[site].codes)
        for site in shapes
        for _ in range(math.prod(shapes[site]))
    ]
    flat = torch.tensor(list(itertools.product(*ranges)))
    return flat, as_grids(vqvae, flat)


def as_grids(vqvae, flat):
    sizes = [math.prod(shape) for shape in vqvae.code_shapes.values()]
    parts = zip(vqvae.code_shapes.items(), flat.split(sizes, 1), strict=True)
    found = {site: part.reshape(-1, *shape) for (site, shape), part in parts}
    return found["z1"] if len(found) == 1 else found


def flat_of(vqvae, grids):
    grids = {"z1": grids} if isinstance(grids, torch.Tensor) else grids
    return torch.cat([grids[site].flatten(1) for site in vqvae.latents], 1)


@pytest.fixture(params=KINDS)
def kind(request):
    torch.manual_seed(0)
    return KINDS[request.param]()


def test_probabilities_of_all_grids_sum_to_one(kind):
    vqvae, _ = kind
    prior = jittered(vqvae)
    flat, grids = all_grids(vqvae)
    log_prob = prior.log_prob(grids)
    assert float(log_prob.double().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert log_prob.std() > 0.3
    # Each code sees all before it: conditionals of the last code differ with each of them
    last = vqvae.codebooks["z1"].codes
    conditional = log_prob.reshape(-1, last).log_softmax(1)
    shape = [len(flat[:, i].unique()) for i in range(flat.shape[1] - 1)]
    for i in range(len(shape)):
        varied = conditional.reshape(*shape, last).movedim(i, 0)
        assert (varied[0] - varied[1]).abs().max() > 1e-6, f"code {i} is not seen"


def test_draws_have_the_probabilities_that_are_scored(kind):
    vqvae, _ = kind
    prior, n = jittered(vqvae), 8000
    flat, grids = all_grids(vqvae)
    drawn = flat_of(vqvae, prior.sample(n))
    weights = [1]
    for i in reversed(range(1, flat.shape[1])):
        weights.insert(0, weights[0] * len(flat[:, i].unique()))
    counts = (drawn * torch.tensor(weights)).sum(1).bincount(minlength=len(flat))
    assert chance_of(counts, n, prior.log_prob(grids).exp()) > LEVEL


def test_completions_have_the_conditional_by_enumeration(kind):
    vqvae, _ = kind
    prior, n = jittered(vqvae), 4000
    flat, grids = all_grids(vqvae)
    given = flat.shape[1] - 2
    first = flat[torch.randint(len(flat), ())]
    mask = torch.arange(flat.shape[1]) < given
    asked = as_grids(vqvae, first.expand(n, -1)), as_grids(vqvae, mask[None])
    masks = asked[1]
    masks = masks[0] if isinstance(masks, torch.Tensor) else {s: m[0] for s, m in masks.items()}
    drawn = flat_of(vqvae, prior.complete(asked[0], masks))
    assert torch.equal(drawn[:, :given], first[:given].expand(n, -1))
    candidates = (flat[:, :given] == first[:given]).all(1)
    expected = prior.log_prob(grids)[candidates].softmax(0)
    matches = (drawn[:, None, given:] == flat[candidates][None, :, given:]).all(-1)
    assert chance_of(matches.sum(0), n, expected) > LEVEL


def test_a_fit_finds_the_entropy_of_the_codes(kind):
    vqvae, guide = kind
    x = torch.randint(2, (4, *vqvae.event_shape)).float().repeat_interleave(10, 0)
    codes = flat_of(vqvae, guide.codes(x))
    shares = codes.unique(dim=0, return_counts=True)[1] / 40
    entropy = -float((shares * shares.log()).sum())
    prior = CodePrior(vqvae, width=16, layers=2).fit(
        guide, x, epochs=100, lr=1e-2, seed=0, progress=False
    )
    assert -float(prior.log_prob(guide.codes(x)).mean()) == pytest.approx(entropy, abs=0.1)
    replaced = handlers.replace_prior(vqvae, prior)
    terms = infer.elbo_terms(replaced, guide, x)
    kl = sum(terms.kl.values())
    torch.testing.assert_close(kl, -prior.log_prob(guide.codes(x)), rtol=1e-4, atol=1e-4)
    assert vqvae.sample(3, prior=prior).shape == (3, *vqvae.event_shape)


def labelled():
    return two_levels(condition=3)


def test_a_conditional_prior_sums_to_one_for_each_class():
    vqvae, _ = labelled()
    prior = jittered(vqvae)
    _, grids = all_grids(vqvae)
    masses = [prior.log_prob(grids, y=k).exp() for k in range(3)]
    assert [float(m.sum()) for m in masses] == pytest.approx([1] * 3, abs=1e-5)
    assert (masses[0] - masses[1]).abs().max() > 1e-3
    y = torch.arange(len(masses[0])) % 3
    mixed = prior.log_prob(grids, y=y).exp()
    torch.testing.assert_close(mixed, torch.stack(masses, 1)[torch.arange(len(y)), y])


def test_a_class_that_decides_the_codes_is_learnt():
    torch.manual_seed(0)
    vqvae, guide = labelled()
    x = torch.randint(2, (3, 1, 4, 4)).float()
    with torch.no_grad():
        vqvae.codebook.weight.copy_(torch.randn(2, 3))
    codes = guide.codes(x)
    y = torch.arange(3).repeat(20)
    prior = CodePrior(vqvae, width=8, layers=2)
    prior.fit(guide, (x.repeat(20, 1, 1, 1), y), epochs=60, lr=2e-2, seed=0, progress=False)
    assert prior.log_prob(codes, y=torch.arange(3)).mean() > -0.1
    drawn = prior.sample(60, y=y)
    same = [(drawn[s] == codes[s].repeat(20, 1, 1)).float().mean() for s in codes]
    assert min(same) > 0.9
    # The model draws the codes of a class, and its site has the same mass under the prior
    replaced = handlers.replace_prior(vqvae, prior)
    assert replaced.sample(5, y=1).shape == vqvae.sample(5, y=1, prior=prior).shape
    terms = infer.elbo_terms(replaced, guide, x, y=torch.arange(3))
    mass = prior.log_prob(codes, y=torch.arange(3))
    torch.testing.assert_close(sum(terms.kl.values()), -mass, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [two_levels, labelled, KINDS["stack on frames"]])
def test_a_model_with_such_a_prior_goes_into_a_file(build, tmp_path):
    vqvae, guide = build()
    model = handlers.replace_prior(vqvae, jittered(vqvae))
    x = torch.randint(2, (5, *vqvae.event_shape)).float()
    y = torch.arange(5) % 3 if vqvae.condition else None
    trainer = Trainer(model, guide, seed=0).fit((x, y), epochs=1, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    before, after = (infer.elbo_terms(t.model, t.guide, x, y=y).elbo for t in (trainer, again))
    assert torch.equal(before, after)


def test_what_does_not_fit():
    vqvae, guide = two_levels()
    prior = jittered(vqvae)
    grid = guide.codes(torch.zeros(2, 1, 4, 4))
    mask = {site: torch.ones(codes.shape[1:], dtype=torch.bool) for site, codes in grid.items()}
    assert all(torch.equal(prior.complete(grid, mask)[s], grid[s]) for s in grid)
    with pytest.raises(ValueError, match=r"grid: expected one for each of \('z2', 'z1'\)"):
        prior.log_prob(grid["z1"])
    with pytest.raises(ValueError, match=r"mask: expected one for each of \('z2', 'z1'\)"):
        prior.complete(grid, {"z1": mask["z1"]})
    with pytest.raises(ValueError, match=r"before all others .* those of z1 after all above"):
        prior.complete(grid, {**mask, "z2": ~mask["z2"]})
    with pytest.raises(ValueError, match="y: expected none"):
        prior.sample(2, y=1)
    stacked = jittered(KINDS["stack on an image"]()[0])
    wrong = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mask: expected booleans of shape \(2, 2, 2\)"):
        stacked.complete(torch.zeros(1, 2, 2, 2, dtype=torch.long), wrong)
    with pytest.raises(ValueError, match=r"grid: expected integers \(n, 2, 2, 2\)"):
        stacked.log_prob(torch.zeros(1, 2, 2, dtype=torch.long))
    for number in (-1, 3):
        changed = {**grid, "z2": torch.full_like(grid["z2"], number)}
        with pytest.raises(ValueError, match="grid: expected codes from 0 to 2, got"):
            prior.log_prob(changed)
        with pytest.raises(ValueError, match="grid: expected codes from 0 to 2, got"):
            prior.complete(changed, mask)
        # Those that are not given do not matter
        prior.complete(changed, {site: ~each for site, each in mask.items()})
    conditional, guide = labelled()
    prior = CodePrior(conditional, width=4, layers=1)
    with pytest.raises(ValueError, match=r"data: expected labels, .* got none: pass \(x, y\)"):
        prior.fit(guide, torch.zeros(3, 1, 4, 4), epochs=1, progress=False)
    prior.fitted_on.fill_(1)
    with pytest.raises(ValueError, match="y: this model is conditional on 3 classes"):
        prior.sample(2)
