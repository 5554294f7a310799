"""What is said about the sites of programs in plain Pyro, and that its advice works."""

import pyro
import pyro.distributions as dist
import pyro.infer
import torch
from advice import Cases
from pyro import poutine
from pyro.contrib.cevae import TraceCausalEffect_ELBO
from pyro.infer import config_enumerate
from torch import nn

from pyro_vae import Trainer, diagnostics, infer
from pyro_vae.infer import SVI, AnalyticELBO, ImportanceWeightedELBO, TraceELBO, check_pair

N, D = 5, 3
X = torch.linspace(-1, 1, N * D).view(N, D)
cases = Cases()


def plate(x, **options):
    return pyro.plate("data", len(x), **options)


def prior(x):
    return dist.Normal(x.new_zeros(len(x), D), 1.0).to_event(1)


def gaussian(loc):
    return dist.Normal(loc, 1.0).to_event(1)


def pair(likelihood=gaussian, posterior=gaussian, prior=prior, model=lambda x, z: None, **seen):
    """A model and a guide of one latent; ``model`` adds sites."""

    def p(x):
        with plate(x):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", likelihood(z), **{"obs": x, **seen})
            model(x, z)

    def q(x):
        with plate(x):
            pyro.sample("z", posterior(x))

    return p, q


class Predicting(nn.Module):
    """A pair of which the guide predicts a column of the data, too."""

    def __init__(self, guide):
        super().__init__()
        self.net, self.guide = nn.Linear(D - 1, D), guide

    def forward(self, x):
        with plate(x):
            if self.guide:
                logits, *loc = self.net(x[:, 1:]).unbind(-1)
                t, only = x[:, 0].sign().relu(), {"is_auxiliary": True}
                pyro.sample("t", dist.Bernoulli(logits=logits), obs=t, infer=only)
                pyro.sample("z", gaussian(torch.stack(loc, -1)))
            else:
                z = pyro.sample("z", gaussian(x.new_zeros(len(x), D - 1)))
                pyro.sample("x", gaussian(self.net(z)), obs=x)


predicting = Predicting(False), Predicting(True)


def checked(*pair):
    return lambda: check_pair(*pair, X)


def bound(estimator, *pair):
    return lambda: estimator(*pair, X)


def weighted(*pair):
    return bound(ImportanceWeightedELBO(3), *pair)


P, Q = pair()


@cases
def observed(tmp):
    yield checked(pair(obs=None)[0], Q), checked(pair(obs=X)[0], Q)
    column = pair(lambda z: gaussian(z[:, :1]))
    yield (
        checked(*column),
        checked(*pair(lambda z: gaussian(z[:, :1].expand(-1, D)))),
        checked(*pair(lambda z: gaussian(z[:, :1]), obs=X[:, :1])),
    )
    squeezed = pair(model=lambda x, z: pyro.sample("y", gaussian(z[:, :1]), obs=x[:, 0]))
    mended = (
        pair(model=lambda x, z: pyro.sample("y", gaussian(z[:, :1]), obs=x[:, 0].unsqueeze(-1))),
        pair(
            model=lambda x, z: pyro.sample(
                "y", dist.Normal(z[:, :1].squeeze(-1), 1.0), obs=x[:, 0]
            )
        ),
    )
    yield checked(*squeezed), *(checked(*each) for each in mended)
    undeclared = pair(lambda z: dist.Normal(z.mT, 1.0), obs=X.mT)
    yield bound(TraceELBO(), *undeclared), bound(TraceELBO(), P, Q)
    outside = lambda x: (P(x), pyro.factor("all", x.sum()))  # noqa: E731
    inside = pair(model=lambda x, z: pyro.factor("each", x.sum(1)))
    yield weighted(outside, Q), bound(TraceELBO(), outside, Q), weighted(*inside)

    def observes(x):
        with plate(x):
            pyro.sample("z", gaussian(x))
            pyro.sample("x", gaussian(x), obs=x)

    hidden = poutine.block(observes, hide=["x"])
    yield checked(P, observes), checked(P, hidden)
    written_for = TraceCausalEffect_ELBO()
    yield (
        checked(*predicting),
        checked(predicting[0], poutine.block(predicting[1], hide=["t"])),
        lambda: Trainer(*predicting, elbo=written_for).fit(X, epochs=1, progress=False),
        lambda: SVI(*predicting, loss=written_for).step(X),
    )

    def under_mask(x):
        with plate(x):
            pyro.sample("z", gaussian(x))
            with poutine.mask(mask=x[:, 0] > 0):
                pyro.sample("x_unobserved", gaussian(x))

    half = pair(obs_mask=X[:, 0] <= 0)[0]
    instead = poutine.mask(pair(obs=X)[0], mask=X[:, 0] <= 0)
    yield checked(half, Q), checked(half, under_mask), checked(instead, Q)


@cases
def marks(tmp):
    def marked(how):
        return pair(model=lambda x, z: pyro.sample("extra", dist.Normal(x[:, 0], 1.0), **how))[0]

    def guide(x, **how):
        with plate(x):
            pyro.sample("z", gaussian(x))
            pyro.sample("extra", dist.Normal(x[:, 0], 1.0), **how)

    mark = {"infer": {"is_auxiliary": True}}
    yield checked(marked(mark), lambda x: guide(x, **mark)), checked(marked({}), guide)
    coins = pair(
        lambda z: gaussian(z.unsqueeze(-1) * torch.ones(D)),
        lambda x: dist.Bernoulli(x[:, 0].sigmoid()),
        lambda x: dist.Bernoulli(torch.tensor(0.5)),
    )
    both = coins[0], config_enumerate(coins[1])
    sum_out = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    drawn = lambda *pair: lambda: TraceELBO().examine(*pair, X)  # noqa: E731
    yield drawn(*both), drawn(*coins), lambda: sum_out.loss(*both, X)
    yield (
        lambda: infer.elbo_terms(*both, X, estimator=sum_out),
        lambda: infer.elbo_terms(*coins, X, estimator=TraceELBO()),
        lambda: SVI(*both, loss=sum_out).evaluate_loss(X),
    )

    def factored(x):
        with plate(x):
            pyro.sample("z", gaussian(x))
            pyro.factor("more", -x[:, 0])

    yield lambda: diagnostics.collapse(P, factored, X), lambda: diagnostics.collapse(P, Q, X)
    points = pair(posterior=lambda x: dist.Delta(x).to_event(1))
    yield lambda: diagnostics.collapse(*points, X), lambda: diagnostics.collapse(P, Q, X)


@cases
def plates(tmp):
    def left(dim):
        def run(x, observe=True):
            with plate(x, dim=-1 if dim == -2 else -2):
                with pyro.plate("copies", 2, dim=dim):
                    pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                if observe:
                    x = x[:, 0] if dim == -2 else x[:, :1]
                    pyro.sample("x", dist.Normal(0.0 * x, 1.0), obs=x)

        return run, lambda x: run(x, observe=False)

    few = {"temperatures": 3, "chains": 2, "progress": False}
    yield (
        lambda: infer.annealed(*left(-2), X, **few),
        lambda: infer.annealed(*left(-1), X, **few),
        lambda: infer.importance(*left(-2), X, samples=2),
    )

    def columns(subsample):
        def run(x):
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(x[:, :1] * 0, 1.0))
                with pyro.plate("columns", D, subsample_size=subsample, dim=-1) as i:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, i])

        def guide(x):
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("z", dist.Normal(x[:, :1], 1.0))

        return run, guide

    yield weighted(*columns(2)), bound(TraceELBO(), *columns(2)), weighted(*columns(D))

    def square(name):
        def run(x, observe=True):
            with pyro.plate(name, N, dim=-2), pyro.plate("columns", N, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(N, N), 1.0))
                if observe:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, :1].expand(N, N))

        return run, lambda x: run(x, observe=False)

    yield bound(TraceELBO(), *square("rows")), bound(TraceELBO(), *square("data"))

    def subsampled(loc, full=2, observe=False):
        def run(x):
            with pyro.plate("data", full * len(x), subsample_size=len(x)):
                z = pyro.sample("z", gaussian(loc * x))
                if observe:
                    pyro.sample("x", gaussian(z), obs=x)

        return run

    half = subsampled(0.0, observe=True)
    yield weighted(half, Q), weighted(half, subsampled(1.0))

    def by_row(full):
        def model(x):
            with pyro.plate("data", full * len(x), subsample_size=len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(0.0 * x[:, None], 1.0).to_event(1))
                with pyro.plate("columns", D, dim=-1):
                    pyro.sample("x", dist.Normal(z.squeeze(-2), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", full * len(x), subsample_size=len(x), dim=-2):
                pyro.sample("z", gaussian(x[:, None]))

        return model, guide

    yield weighted(*by_row(2)), weighted(*by_row(1))

    def scaled(weights, distribution):
        def run(x):
            with plate(x):
                z = pyro.sample("z", prior(x))
                with poutine.mask(mask=weights(x)):
                    pyro.sample("x", distribution(z), obs=x)

        return run

    by_element = scaled(lambda x: x > 0, gaussian)
    mended = pair(lambda z: dist.Normal(z, 1.0).mask(X > 0).to_event(1))
    yield bound(TraceELBO(), by_element, Q), bound(TraceELBO(), *mended)


def gradient(estimator, *pair):
    return lambda: estimator(*pair, X)[0].backward()


@cases
def closed_forms(tmp):
    exact, drawn = AnalyticELBO(), TraceELBO()
    with_gain = pair(posterior=lambda x: gaussian(x * pyro.param("gain", torch.ones(()))))
    coin = pair(
        lambda z: gaussian(z.unsqueeze(-1) * torch.ones(D)),
        lambda x: dist.Bernoulli(logits=x[:, 0] * pyro.param("gain", torch.ones(()))),
        lambda x: dist.Bernoulli(torch.tensor(0.5)),
    )
    yield gradient(exact, *coin), gradient(drawn, *coin)
    hidden = pair(posterior=lambda x: dist.Normal(x, 1.0).mask(x > 0).to_event(1))
    yield bound(exact, *hidden), bound(drawn, *hidden)
    heavy = pair(posterior=lambda x: dist.StudentT(5.0, x, 1.0).to_event(1))
    yield bound(exact, *heavy), bound(drawn, *heavy)
    weighed = [poutine.scale(program, scale=0.5) for program in with_gain]
    yield (
        gradient(exact, weighed[0], with_gain[1]),
        gradient(exact, *weighed),
        gradient(drawn, weighed[0], with_gain[1]),
    )

    def chain(*names):
        def run(x):
            with plate(x):
                for name in names:
                    value = pyro.sample(name, gaussian(0.0 * x))
                if "a" == names[0]:
                    pyro.sample("x", gaussian(value), obs=x)

        return run

    below, above = chain("b", "a"), lambda x: poutine.block(chain("a", "b"), hide=["x"])(x)
    yield (
        bound(exact, chain("a", "b"), below),
        bound(drawn, chain("a", "b"), below),
        bound(exact, chain("a", "b"), above),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
