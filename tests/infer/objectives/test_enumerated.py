"""Latents that are summed out: equal to Pyro's objective, to sums by hand, and told otherwise."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.ops.indexing import Vindex
from torch import nn

from pyro_vae.infer import TraceEnumELBO, elbo_terms

N, K = 6, 3
PARALLEL = {"enumerate": "parallel"}


class Mixture(nn.Module):
    """A mixture for a prior: k, z given k, and x given z or both."""

    def __init__(self, *, direct: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.means = nn.Parameter(torch.tensor([-2.0, 0.0, 3.0]))
        self.q = nn.Parameter(torch.tensor([0.4, -0.3]))
        self.direct = direct

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(self.means[k], 0.7))
            loc = z + self.means[k] if self.direct else z
            pyro.sample("x", dist.Normal(loc, 0.5), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.q[0] * x, self.q[1].exp()))


class Labelled(Mixture):
    """The same with k in the guide, too, which draws z given k."""

    def guide(self, x):
        with pyro.plate("data", len(x)):
            logits = torch.stack([self.q[0] * x, self.q[1] * x, 0 * x], -1)
            k = pyro.sample("k", dist.Categorical(logits=logits), infer=PARALLEL)
            pyro.sample("z", dist.Normal(self.q[0] * x + self.means[k], self.q[1].exp()))


class Chain(nn.Module):
    """A hidden Markov model of each datum, a switch of its noise, and a latent of its level."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.move, self.level = nn.Parameter(torch.randn(K, K)), nn.Parameter(torch.randn(K))
        self.q = nn.Parameter(torch.tensor([0.4, -0.3]))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            noisy = pyro.sample("noisy", dist.Bernoulli(0.3), infer=PARALLEL)
            k = torch.tensor(0)
            for t in pyro.markov(range(x.shape[1])):
                moves = dist.Categorical(logits=Vindex(self.move)[k])
                k = pyro.sample(f"k{t}", moves, infer=PARALLEL)
                loc = Vindex(self.level)[k] + c
                pyro.sample(f"x{t}", dist.Normal(loc, 0.5 + noisy), obs=x[:, t])

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Normal(self.q[0] * x.mean(1), self.q[1].exp()))


class Words(nn.Module):
    """A topic of each word in a plate inside the document, and the document's mixture of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.topics = nn.Parameter(torch.randn(K, 5))
        self.q = nn.Parameter(torch.tensor([0.4, -0.3]))

    def model(self, x):
        words = pyro.plate("words", x.shape[1], dim=-1)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with words:
                logits = torch.stack([z, -z, 0 * z], -1)
                k = pyro.sample("k", dist.Categorical(logits=logits), infer=PARALLEL)
                pyro.sample("x", dist.Categorical(logits=Vindex(self.topics)[k]), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(self.q[0] * x.float().mean(1, True), self.q[1].exp()))


class Shared(Mixture):
    """Components that all data share, and a latent of these in the guide."""

    def model(self, x):
        with pyro.plate("components", K):
            means = pyro.sample("means", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits), infer=PARALLEL)
            pyro.sample("x", dist.Normal(means[k], 0.5), obs=x)

    def guide(self, x):
        with pyro.plate("components", K):
            pyro.sample("means", dist.Normal(self.means, self.q[1].exp()))


def numbers(n=N):
    return torch.linspace(-3, 4, n)


def tracks():
    return torch.randn(N, 4, generator=torch.Generator().manual_seed(3))


def documents():
    return torch.randint(0, 5, (N, 7), generator=torch.Generator().manual_seed(4))


PAIRS = {
    "mixture": (Mixture, numbers),
    "one datum": (Mixture, lambda: numbers(1)),
    "mixture, seen": (lambda: Mixture(direct=True), numbers),
    "labelled": (Labelled, numbers),
    "labelled, seen": (lambda: Labelled(direct=True), numbers),
    "chain": (Chain, tracks),
    "words": (Words, documents),
    "shared": (Shared, numbers),
}


def loss_and_gradient(estimator, pair, x):
    torch.manual_seed(5)
    loss = estimator(pair, x)
    parameters = [p for p in pair.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss, [torch.zeros(()) if g is None else g for g in gradients]


def ours(pair, x):
    return TraceEnumELBO()(pair.model, pair.guide, x)[0]


def stocks(pair, x):
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    return elbo.differentiable_loss(pair.model, pair.guide, x)


@pytest.mark.parametrize("name", PAIRS)
def test_loss_and_gradient_are_those_of_pyro(name):
    make, data = PAIRS[name]
    pair, x = make(), data()
    loss, gradients = loss_and_gradient(ours, pair, x)
    expected, others = loss_and_gradient(stocks, pair, x)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for ours_, stocks_ in zip(gradients, others, strict=True):
        torch.testing.assert_close(ours_, stocks_.reshape(ours_.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_terms_add_up_to_the_bound(name):
    make, data = PAIRS[name]
    pair, x = make(), data()
    loss, terms = TraceEnumELBO()(pair.model, pair.guide, x)
    assert terms.elbo.shape == (len(x),)
    torch.testing.assert_close(-terms.elbo.sum(), loss.detach(), rtol=1e-5, atol=1e-4)


def test_terms_are_those_of_a_sum_by_hand():
    """KL of z against the mixture that its prior is; the likelihood given z with k summed out."""
    pair, x = Mixture(direct=True).double(), numbers().double()
    torch.manual_seed(6)
    z = pair.q[0] * x + pair.q[1].exp() * torch.randn(N, dtype=torch.double)
    log_q = dist.Normal(pair.q[0] * x, pair.q[1].exp()).log_prob(z)
    prior = pair.logits.log_softmax(-1) + dist.Normal(pair.means, 0.7).log_prob(z[:, None])
    seen = dist.Normal(z[:, None] + pair.means, 0.5).log_prob(x[:, None])
    estimator = TraceEnumELBO()
    estimator.prepare(pair.model, pair.guide, x)
    torch.manual_seed(6)
    terms = estimator(pair.model, pair.guide, x)[1]
    torch.testing.assert_close(terms.kl["z"], (log_q - prior.logsumexp(-1)).detach())
    expected = (prior + seen).logsumexp(-1) - prior.logsumexp(-1)
    torch.testing.assert_close(terms.reconstruction, expected.detach())


def test_the_kl_of_what_the_guide_enumerates_is_exact():
    pair, x = Labelled(), numbers()
    terms = TraceEnumELBO()(pair.model, pair.guide, x)[1]
    q = torch.stack([pair.q[0] * x, pair.q[1] * x, 0 * x], -1).log_softmax(-1)
    expected = (q.exp() * (q - pair.logits.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(terms.kl["k"], expected.detach())


def test_a_mixture_alone_has_its_evidence_for_a_bound():
    pair, x = Mixture(), numbers()

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=pair.logits))
            pyro.sample("x", dist.Normal(pair.means[k], 0.5), obs=x)

    terms = elbo_terms(model, lambda x: None, x)
    log_p = pair.logits.log_softmax(-1) + dist.Normal(pair.means, 0.5).log_prob(x[:, None])
    torch.testing.assert_close(terms.elbo, log_p.logsumexp(-1).detach())
    assert not terms.kl


def test_masked_data_count_for_nothing():
    pair, x = Mixture(direct=True), numbers()
    seen = torch.arange(N) % 2 == 0

    def model(x):
        with poutine.mask(mask=seen):
            pair.model(x)

    def guide(x):
        with poutine.mask(mask=seen):
            pair.guide(x)

    torch.manual_seed(5)
    loss, terms = TraceEnumELBO()(model, guide, x)
    torch.manual_seed(5)
    expected = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x)
    torch.testing.assert_close(loss, expected)
    assert (terms.elbo[~seen].abs() < 1e-5).all()


class Read(nn.Module):
    """Topics of words, for guide or model to enumerate; a switch of the word or the document."""

    def __init__(self, *, switch: str, told: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.topics, self.q = nn.Parameter(torch.randn(2, K, 5)), nn.Parameter(torch.randn(5, K))
        self.switch, self.told = switch, told

    def model(self, x):
        words = pyro.plate("words", x.shape[1], dim=-1)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if self.switch == "document":
                s = pyro.sample("s", dist.Bernoulli(0.3), infer=PARALLEL)
            with words:
                if self.switch == "word":
                    s = pyro.sample("s", dist.Bernoulli(0.3), infer=PARALLEL)
                logits = torch.stack([z, -z, 0 * z], -1)
                k = pyro.sample("k", dist.Categorical(logits=logits), infer=PARALLEL)
                logits = Vindex(self.topics)[s.long(), k]
                pyro.sample("x", dist.Categorical(logits=logits), obs=x)

    def guide(self, x):
        words = pyro.plate("words", x.shape[1], dim=-1)
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(self.q[0, 0] * x.float().mean(1, True), 1.0))
            if self.told:
                with words:
                    pyro.sample("k", dist.Categorical(logits=self.q[x]), infer=PARALLEL)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("n", [1, N])
def test_sums_in_plates_inside_the_datum(told, n):
    pair, x = Read(switch="word", told=told), documents()[:n]
    loss, gradients = loss_and_gradient(ours, pair, x)
    expected, others = loss_and_gradient(stocks, pair, x)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for mine, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    loss, terms = TraceEnumELBO()(pair.model, pair.guide, x)
    torch.testing.assert_close(-terms.elbo.sum(), loss.detach(), rtol=1e-5, atol=1e-4)


def test_what_is_summed_for_the_document_is_not_averaged_for_its_words():
    pair, x = Read(switch="document", told=True), documents()
    with pytest.raises(ValueError, match=r"site 'k': the guide enumerates it in a plate"):
        TraceEnumELBO()(pair.model, pair.guide, x)
    pair = Read(switch="document", told=False)
    loss, _ = loss_and_gradient(ours, pair, x)
    expected, _ = loss_and_gradient(stocks, pair, x)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)


def test_an_objective_goes_on_to_a_pair_with_more_plates():
    """As many topics as documents, whose dimensions one would take for the other."""
    estimator, few = TraceEnumELBO(), Mixture()
    estimator(few.model, few.guide, numbers())
    pair, x = Words(), documents()[:K]
    found = estimator(pair.model, pair.guide, x)[1]
    fresh = elbo_terms(pair.model, pair.guide, x, samples=200)
    again = elbo_terms(pair.model, pair.guide, x, samples=200, estimator=estimator)
    torch.testing.assert_close(again.elbo, fresh.elbo)
    assert found.elbo.shape == (K,)
