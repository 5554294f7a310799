"""Discrete latents summed out in evaluations, training and posteriors, against sums by hand."""

import functools
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn

from pyro_vae import Trainer, diagnostics, guides, infer, schedules

K, PARALLEL = 3, {"enumerate": "parallel"}
X = torch.linspace(-3, 4, 6)


class Pair(nn.Module):
    """k, z given k, and x given both; the guide draws z, or k and z given k."""

    def __init__(self, *, labelled=False):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.means = nn.Parameter(torch.tensor([-2.0, 0.0, 3.0]))
        self.q = nn.Parameter(torch.tensor([0.3, 0.2]))
        self.labelled = labelled

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(self.means[k], 0.7))
            pyro.sample("x", dist.Normal(z + 0.5 * k, 0.5), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = self.q[0] * x
            if self.labelled:
                logits = torch.stack([loc, 0 * x, -loc], -1)
                k = pyro.sample("k", dist.Categorical(logits=logits), infer=PARALLEL)
                loc = loc + 0.3 * k
            pyro.sample("z", dist.Normal(loc, self.q[1].exp()))

    def joint(self, x):
        """Log p(k, x), with z integrated in closed form: (n, K)."""
        scale = math.hypot(0.7, 0.5)
        loc = (self.means + 0.5 * torch.arange(K)).detach()
        log_p = dist.Normal(loc, scale).log_prob(x[:, None])
        return self.logits.detach().log_softmax(-1) + log_p


@pytest.mark.parametrize("labelled", [False, True])
def test_importance_sampling_sums_them_exactly(labelled):
    pair = Pair(labelled=labelled)
    torch.manual_seed(1)
    found = infer.importance(pair.model, pair.guide, X, samples=20_000)
    error = found.log_likelihood - pair.joint(X).logsumexp(-1)
    assert excess(error / found.standard_error) < 1
    # A guide that is the posterior of z, k summed out, has weights that are all alike
    alone = Pair()
    alone.model = config_enumerate(_only_discrete(pair))
    found = infer.importance(alone.model, lambda x: None, X, samples=3)
    torch.testing.assert_close(found.log_likelihood, pair.joint(X).logsumexp(-1))


def _only_discrete(pair):
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=pair.logits))
            scale = math.hypot(0.7, 0.5)
            pyro.sample("x", dist.Normal(pair.means[k] + 0.5 * k, scale), obs=x)

    return model


@pytest.mark.parametrize("labelled", [False, True])
def test_the_posterior_is_that_of_bayes_rule(labelled):
    pair = Pair(labelled=labelled)
    expected = pair.joint(X).softmax(-1)
    exact = infer.discrete_posterior(config_enumerate(_only_discrete(pair)), lambda x: None, X)
    torch.testing.assert_close(exact, expected)
    torch.manual_seed(2)
    found = infer.discrete_posterior(pair.model, pair.guide, X, samples=20_000)
    assert found.shape == (len(X), K)
    torch.testing.assert_close(found.sum(-1), torch.ones(len(X)))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_chunks_of_the_posterior_are_one_estimate():
    """However few rows at once, its expectation stays: exact where nothing is drawn."""
    model = config_enumerate(_only_discrete(Pair()))
    whole = infer.discrete_posterior(model, lambda x: None, X, samples=7)
    parts = infer.discrete_posterior(model, lambda x: None, X, samples=7, chunk_size=4)
    torch.testing.assert_close(parts, whole)


def test_a_chain_is_summed_as_by_brute_force():
    torch.manual_seed(0)
    moves, levels = torch.randn(K, K), torch.tensor([-1.0, 0.0, 2.0])
    x = torch.randn(4, 3)

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            k = torch.tensor(0)
            for t in pyro.markov(range(x.shape[1])):
                k = pyro.sample(f"k{t}", dist.Categorical(logits=moves[k]))
                pyro.sample(f"x{t}", dist.Normal(levels[k], 1.0), obs=x[:, t])

    log_move, paths = moves.log_softmax(-1), []
    for path in itertools.product(range(K), repeat=3):
        before = (0, *path[:-1])
        prior = sum(log_move[a, b] for a, b in zip(before, path, strict=True))
        paths.append(prior + dist.Normal(levels[list(path)], 1.0).log_prob(x).sum(-1))
    joint = torch.stack(paths, -1).reshape(4, K, K, K)
    terms = infer.elbo_terms(model, lambda x: None, x)
    torch.testing.assert_close(terms.elbo, joint.logsumexp((1, 2, 3)))
    for t in range(3):
        others = [d for d in (1, 2, 3) if d != t + 1]
        found = infer.discrete_posterior(model, lambda x: None, x, site=f"k{t}")
        torch.testing.assert_close(found, joint.logsumexp(others).softmax(-1))


def test_the_posterior_of_each_word_in_a_plate():
    torch.manual_seed(1)
    topics, x = torch.randn(K, 5).log_softmax(-1), torch.randint(5, (4, 7))

    @config_enumerate
    def model(x):
        words = pyro.plate("words", x.shape[1], dim=-1)
        with pyro.plate("data", len(x), dim=-2), words:
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.2, 0.3])))
            pyro.sample("x", dist.Categorical(logits=topics[k]), obs=x)

    found = infer.discrete_posterior(model, lambda x: None, x)
    log_p = torch.tensor([0.5, 0.2, 0.3]).log() + topics.T[x]
    torch.testing.assert_close(found, log_p.softmax(-1))
    expected = log_p.logsumexp(-1).sum(-1)
    torch.testing.assert_close(infer.elbo_terms(model, lambda x: None, x).elbo, expected)


def test_annealing_moves_the_others():
    pair = Pair()
    found = infer.annealed(
        pair.model, pair.guide, X, temperatures=100, chains=32, seed=0, progress=False
    )
    error = found.log_likelihood - pair.joint(X).logsumexp(-1)
    assert excess(error / found.standard_error, draws=32) < 1


@pytest.mark.parametrize("labelled", [False, True])
def test_the_engines_agree_to_the_bit(labelled):
    ended = []
    for engine in ("eager", "graph"):
        pair = Pair(labelled=labelled)
        adam = functools.partial(torch.optim.Adam, lr=0.1)
        options = {"loss": infer.TraceEnumELBO(), "engine": engine}
        svi = infer.SVI(pair.model, pair.guide, adam, **options)
        torch.manual_seed(0)
        # A pair that cannot be recorded would be warned of
        for _ in range(10):
            svi.step(X)
        ended.append([*map(torch.Tensor.detach, pair.parameters())])
    assert all(map(torch.equal, *ended))


def test_a_step_is_that_of_pyro():
    ours, theirs = Pair(), Pair()
    losses = infer.TraceEnumELBO(), TraceEnum_ELBO(max_plate_nesting=1)
    for pair, loss in zip((ours, theirs), losses, strict=True):
        adam = functools.partial(torch.optim.Adam, lr=0.1)
        svi = infer.SVI(pair.model, pair.guide, adam, loss)
        torch.manual_seed(3)
        for _ in range(5):
            svi.step(X)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_beta_weighs_the_kl_of_what_the_guide_draws():
    """With k summed out of each term: log p(x|z) - beta KL(z)."""
    pair = Pair()
    trainer = Trainer(pair.model, pair.guide, elbo="enumerate", beta={"z": 0.25}, seed=4)
    trainer.fit(X, epochs=1, batch_size=len(X), progress=False)
    row = trainer.history[0]
    assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"]["z"], rel=1e-5)
    expected = row["reconstruction"] - 0.25 * row["kl"]["z"]
    assert row["objective"] == pytest.approx(expected, rel=1e-5)


def test_warm_up_of_the_kl_trains():
    pair = Pair()
    warm = {"z": schedules.WarmUp(epochs=5)}
    trainer = Trainer(pair.model, pair.guide, elbo="enumerate", beta=warm, seed=0, lr=0.02)
    trainer.fit(X, epochs=200, progress=False)
    assert trainer.history[-1]["elbo"] > trainer.history[0]["elbo"]


def test_a_mixture_of_known_components_is_recovered():
    """Two thousand numbers of three normals; the guide has nothing to draw."""
    means, weights = torch.tensor([-3.0, 0.5, 4.0]), torch.tensor([0.2, 0.5, 0.3])
    torch.manual_seed(0)
    x = means[torch.multinomial(weights, 2000, replacement=True)] + 0.6 * torch.randn(2000)

    class Components(nn.Module):
        def __init__(self):
            super().__init__()
            self.means = nn.Parameter(torch.tensor([-1.0, 0.0, 1.0]))
            self.logits, self.scale = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Categorical(logits=self.logits), infer=PARALLEL)
                pyro.sample("x", dist.Normal(self.means[k], self.scale.exp()), obs=x)

    mixture = Components()
    trainer = Trainer(mixture, lambda x: None, elbo="enumerate", lr=0.1, seed=0)
    trainer.fit(x, epochs=100, batch_size=500, progress=False)
    order = mixture.means.argsort()
    # About four standard errors of each
    torch.testing.assert_close(mixture.means[order].detach(), means, atol=0.15, rtol=0)
    found = mixture.logits.softmax(-1)[order].detach()
    torch.testing.assert_close(found, weights, atol=0.05, rtol=0)
    assert mixture.scale.exp().item() == pytest.approx(0.6, abs=0.06)


def test_guides_of_the_library_cover_the_others():
    """They sum k out for their structure; compared, saved runs and reports take the pair."""
    pair, x = Pair(), torch.randn(64) * 3
    pair.q.requires_grad_(False)
    made = {
        "bottom-up": guides.BottomUp(pair.model, like=x),
        "full covariance": guides.FullCovariance(pair.model, like=x),
    }
    for guide in made.values():
        Trainer(pair.model, guide, elbo="enumerate", seed=0, lr=1e-2).fit(
            x, epochs=30, batch_size=32, progress=False
        )
    table = infer.compare_guides(pair.model, made, x, samples=100, importance_samples=500)
    exact = pair.joint(x).logsumexp(-1)
    for result in table.values():
        mean = float(result.importance.log_likelihood.mean())
        assert mean == pytest.approx(float(exact.mean()), abs=0.05)
        assert float(result.terms.elbo.mean()) < mean
    found = diagnostics.evaluate(pair.model, made["bottom-up"], x, importance_samples=20)
    assert "KL k" not in found.to_dict()


def test_a_run_goes_on_from_its_folder(tmp_path):
    whole, parts = Pair(), Pair()
    Trainer(whole.model, whole.guide, elbo="enumerate", seed=0).fit(
        X, epochs=6, batch_size=3, progress=False
    )
    first = Trainer(parts.model, parts.guide, elbo="enumerate", seed=0)
    first.fit(X, epochs=3, batch_size=3, progress=False, checkpoint=tmp_path)
    again = Pair()
    second = Trainer.resume(tmp_path, model=again.model, guide=again.guide)
    second.fit(X, epochs=6, batch_size=3, progress=False)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_collapse_counts_the_kl_with_them_summed_out():
    """KL of z against the mixture, at the draws that it tells, whatever k a run would draw."""
    pair, x = Pair(), 2 * torch.randn(300)
    found = diagnostics.collapse(pair.model, pair.guide, x)
    terms = infer.elbo_terms(pair.model, pair.guide, x, samples=200, per_unit=True)
    kl = float(found.sites["z"].kl.mean())
    error = math.hypot(float(terms.kl["z"].std()), 1.0) / math.sqrt(len(x))
    assert abs(kl - float(terms.kl["z"].mean())) < 5 * error
    with pytest.raises(KeyError, match="sums over the values of a discrete latent"):
        terms.per_unit["z"]


def test_what_a_pair_predicts_needs_all_latents_drawn():
    pair = Pair()
    with pytest.raises(ValueError, match=r"site 'k': expected a guide that draws all"):
        infer.mean_squared_error(pair.model, pair.guide, X)
    drawn = Pair(labelled=True)
    assert infer.mean_squared_error(drawn.model, drawn.guide, X).shape == ()


def test_factors_that_contradict_each_other_do_not_underflow():
    """One prefers the one value by 200 nats, the other the other."""

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5), infer=PARALLEL)
            pyro.sample("x", dist.Normal(20 * k, 1.0), obs=x)
            pyro.sample("w", dist.Normal(20 - 20 * k, 1.0), obs=x)

    x = torch.tensor([10.0, 30.0])
    each = [dist.Normal(20.0 * k, 1.0).log_prob(x) for k in (0, 1)]
    expected = each[0] + each[1]
    torch.testing.assert_close(infer.elbo_terms(model, lambda x: None, x).elbo, expected)
