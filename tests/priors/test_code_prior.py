import itertools
import math

import pytest
import torch
from chance import LEVEL, chance_of

from pyro_vae import Trainer, diagnostics, guides, handlers, infer, likelihoods, load, models
from pyro_vae.priors import CodePrior


def pair(event_shape=(1, 4, 4), codes=3, **options):
    vqvae = models.VQVAE(
        event_shape,
        codes,
        4,
        likelihood=likelihoods.Bernoulli(),
        **{"channels": (4,), "blocks": 1, **options},
    )
    with torch.no_grad():
        vqvae.codebook.weight.copy_(torch.randn(codes, 4))
    return vqvae, guides.NearestCode(vqvae)


def tiny():
    """Two positions, three codes: nine grids."""
    return pair((6,), hidden=(8,), grid=2)


def all_grids(prior):
    positions = math.prod(prior.grid_shape)
    grids = itertools.product(range(prior.codes), repeat=positions)
    return torch.tensor(list(grids)).reshape(-1, *prior.grid_shape)


def jittered(vqvae, **options):
    """A prior away from its start, said to be fitted."""
    prior = CodePrior(vqvae, width=6, layers=3, **options)
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.5 * torch.randn_like(p))
    prior.fitted_on.fill_(1)
    return prior


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("build", [pair, tiny])
def test_probabilities_of_all_grids_sum_to_one(build, temperature):
    prior = jittered(build()[0])
    grids = all_grids(prior)
    assert len(grids) == 3 ** math.prod(prior.grid_shape)
    p = prior(temperature=temperature)
    one_hot = torch.nn.functional.one_hot(grids, 3).float()
    log_prob = p.log_prob(one_hot).detach()
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert log_prob.std() > 0.3
    if temperature == 1:
        torch.testing.assert_close(prior.log_prob(grids), log_prob)


def test_a_code_depends_only_on_those_before_it():
    prior = jittered(pair((1, 6, 8))[0])
    z = torch.randint(3, (8, 3, 4))
    one_hot = torch.nn.functional.one_hot(z, 3).float().movedim(-1, 1)
    features = prior.network(one_hot).flatten(2)
    for i in range(12):
        changed = z.clone().flatten(1)
        changed[:, i] = (changed[:, i] + 1) % 3
        images = torch.nn.functional.one_hot(changed.reshape(z.shape), 3).float().movedim(-1, 1)
        again = prior.network(images).flatten(2)
        assert torch.equal(again[..., : i + 1], features[..., : i + 1])
        assert i == 11 or not torch.equal(again, features)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_probabilities_that_are_scored(temperature):
    prior = jittered(pair()[0])
    grids, n = all_grids(prior), 20000
    one_hot = torch.nn.functional.one_hot(grids, 3).float()
    expected = prior(temperature=temperature).log_prob(one_hot).exp()
    drawn = prior.sample(n, temperature=temperature).flatten(1)
    numbers = (drawn * torch.tensor([27, 9, 3, 1])).sum(1)
    assert chance_of(numbers.bincount(minlength=81), n, expected) > LEVEL


def test_samples_have_the_shape_that_is_asked_for():
    prior = jittered(pair()[0])
    p = prior().expand(torch.Size((2, 3)))
    z = p.sample((4,))
    assert z.shape == (4, 2, 3, 2, 2, 3) and p.log_prob(z).shape == (4, 2, 3)
    torch.testing.assert_close(p.log_prob(z)[1, 0], prior().log_prob(z[1, 0]))


def test_bounds_with_either_prior_are_below_the_evidence_by_enumeration():
    vqvae, guide = tiny()
    prior, x = jittered(vqvae), torch.randint(2, (20, 6)).float()
    grids = all_grids(prior)
    log_likelihood = torch.stack(
        [vqvae.decode(z.expand(20, 2)).log_prob(x) for z in grids]
    )  # (9, 20)
    replaced = handlers.replace_prior(vqvae, prior)
    for model, log_p in (
        (vqvae, torch.full((9,), -2 * math.log(3))),
        (replaced, prior.log_prob(grids)),
    ):
        evidence = (log_likelihood + log_p[:, None]).logsumexp(0)
        elbo = infer.elbo_terms(model, guide, x).elbo
        assert (elbo < evidence).all()
        # The bound is the one term of the sum that the guide points at
        codes = guide.codes(x)
        row = (grids[None] == codes[:, None]).all(-1).float().argmax(1)
        term = log_likelihood[row, torch.arange(20)] + log_p[row]
        torch.testing.assert_close(elbo, term)
        result = diagnostics.evaluate(model, guide, x, importance_samples=0)
        assert result.to_dict()["ELBO"]["mean"] == pytest.approx(float(elbo.mean()), rel=1e-5)


def test_fit_finds_the_entropy_of_the_codes():
    vqvae, guide = pair()
    x = torch.randint(2, (4, 1, 4, 4)).float().repeat_interleave(25, 0)
    shares = [c / 100 for c in guide.codes(x).flatten(1).unique(dim=0, return_counts=True)[1]]
    entropy = -sum(p * math.log(p) for p in shares)
    before = [t.clone() for m in (vqvae, guide) for t in m.state_dict().values()]
    prior = CodePrior(vqvae, width=8, layers=2)
    assert prior.fit(guide, x, epochs=200, lr=1e-2, seed=0, validation=x, progress=False) is prior
    after = [t for m in (vqvae, guide) for t in m.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    last = prior.history[-1]
    assert last["epoch"] == 200
    assert last["validation"] == pytest.approx(-float(entropy), abs=0.05)
    assert float(prior.log_prob(guide.codes(x)).mean()) == pytest.approx(last["validation"])
    # The bound with the learned prior is tighter by exactly what the prior gains
    uniform, learned = (
        infer.elbo_terms(m, guide, x) for m in (vqvae, handlers.replace_prior(vqvae, prior))
    )
    gain = float((learned.elbo - uniform.elbo).mean())
    assert gain == pytest.approx(4 * math.log(3) + last["validation"], abs=1e-4)
    assert "fitted on 100 data" in repr(prior)


def test_patience_keeps_the_best_epoch_on_other_data():
    vqvae, guide = pair()
    x = torch.rand(60, 1, 4, 4)
    prior = CodePrior(vqvae, width=8, layers=2)
    options = {"lr": 3e-2, "seed": 0, "validation": x[:20], "progress": False}
    prior.fit(guide, x[20:], epochs=300, patience=4, **options)
    (best,) = (row for row in prior.history if row.get("kept"))
    assert best["validation"] == max(row["validation"] for row in prior.history)
    assert len(prior.history) == best["epoch"] + 4 < 300
    kept = float(prior.log_prob(guide.codes(x[:20])).mean())
    assert kept == pytest.approx(best["validation"], abs=1e-5)
    # No epoch is better than this start
    options["lr"] = 10.0
    prior.fit(guide, x[20:], epochs=300, patience=3, **options)
    assert [row.get("kept") for row in prior.history[-3:]] == [None, None, False]
    assert float(prior.log_prob(guide.codes(x[:20])).mean()) == pytest.approx(kept, abs=1e-5)
    with pytest.raises(ValueError, match="patience: expected validation data to judge epochs by"):
        prior.fit(guide, x, epochs=1, patience=4, progress=False)
    with pytest.raises(ValueError, match="patience: expected a whole number of at least 1, got 0"):
        prior.fit(guide, x, epochs=1, patience=0, validation=x, progress=False)


def test_completions_are_drawn_from_the_conditional():
    prior = jittered(pair()[0])
    mask = torch.tensor([[True, True], [False, False]])
    grid = torch.tensor([[2, 0], [1, 1]])
    drawn = prior.complete(grid.expand(20000, 2, 2), mask)
    assert (drawn[:, 0] == grid[0]).all()
    rest = torch.tensor(list(itertools.product(range(3), repeat=2)))
    candidates = grid.repeat(9, 1, 1)
    candidates[:, 1] = rest
    expected = prior.log_prob(candidates).softmax(0)
    counts = (drawn[:, 1] @ torch.tensor([3, 1])).bincount(minlength=9)
    assert chance_of(counts, 20000, expected) > LEVEL
    full = torch.ones(2, 2, dtype=torch.bool)
    assert torch.equal(prior.complete(grid[None], full), grid[None])
    with pytest.raises(ValueError, match="before all others in the order of rows"):
        prior.complete(grid[None], ~mask)
    with pytest.raises(ValueError, match=r"mask: expected booleans of shape \(2, 2\)"):
        prior.complete(grid[None], mask.float())
    with pytest.raises(ValueError, match=r"grid: expected integers \(n, 2, 2\)"):
        prior.complete(grid[None].float(), mask)


def test_before_it_is_fitted_it_says_how():
    vqvae, guide = pair()
    prior = CodePrior(vqvae, width=4, layers=1)
    for use in (
        lambda: prior.sample(3),
        lambda: vqvae.sample(3, prior=prior),
        lambda: handlers.replace_prior(vqvae, prior),
        lambda: prior.complete(torch.zeros(1, 2, 2).long(), torch.zeros(2, 2).bool()),
    ):
        with pytest.raises(ValueError, match=r"prior.fit\(guide, data, epochs=20\)"):
            use()
    with pytest.raises(ValueError, match="epochs: expected a whole number of at least 1"):
        prior.fit(guide, torch.zeros(3, 1, 4, 4), epochs=0)
    other = CodePrior(pair((1, 8, 8))[0], width=4, layers=1)
    with pytest.raises(ValueError, match=r"guide: expected codes on a grid \(4, 4\)"):
        other.fit(guide, torch.zeros(3, 1, 4, 4), epochs=1, progress=False)
    with pytest.raises(ValueError, match="temperature: expected a positive finite number"):
        prior(temperature=0.0)
    vae = models.VAE((5,), 2, likelihood=likelihoods.Gaussian())
    with pytest.raises(TypeError, match=r"vqvae: expected a models\.VQVAE, got VAE"):
        CodePrior(vae)


def test_state_goes_into_a_twin():
    vqvae, _ = pair()
    prior = jittered(vqvae)
    twin = CodePrior(vqvae, width=6, layers=3)
    twin.load_state_dict(prior.state_dict())
    twin.check_fitted()
    grids = all_grids(prior)
    assert torch.equal(twin.log_prob(grids), prior.log_prob(grids))


def test_a_model_with_a_fitted_prior_goes_into_a_file(tmp_path):
    vqvae, guide = pair()
    model = handlers.replace_prior(vqvae, jittered(vqvae))
    x = torch.randint(2, (5, 1, 4, 4)).float()
    trainer = Trainer(model, guide, seed=0).fit(x, epochs=1, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    before, after = (infer.elbo_terms(t.model, t.guide, x).elbo for t in (trainer, again))
    assert torch.equal(before, after)
