"""Programs that our estimators and those of stock Pyro run alike, one oddity each."""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

N, D, K = 4, 3, 2


@dataclass(frozen=True)
class Case:
    """A pair, and what is special about it.

    ``analytic`` and ``weighted`` are what ``AnalyticELBO`` and ``ImportanceWeightedELBO`` say
    where they refuse the pair; None where they equal stock Pyro. Where the importance-weighted
    bound shall be another than stock Pyro's, ``bound`` says why.
    """

    model: Callable
    guide: Callable
    data_dim: int = -1
    nesting: int = 1
    scaled: bool = False
    score: bool = False
    analytic: str | None = None
    weighted: str | None = None
    bound: str | None = None


def parameter(name, *shape):
    """A parameter that does not depend on any random stream."""
    count = int(torch.tensor(shape).prod())
    return pyro.param(name, lambda: (1 + torch.arange(count)).sin().reshape(shape) / 2)


def means(z):
    return z @ parameter("weight", K, D) + parameter("bias", D)


def prior():
    return dist.Normal(parameter("prior", K), 1.3).to_event(1)


def posterior(x):
    return dist.Normal(x @ parameter("gain", D, K), parameter("spread", K).exp()).to_event(1)


def plate(x, **options):
    return pyro.plate("data", len(x), **options)


def rows(x):
    return x[:, 0] < 0.5


def elements(x):
    return x > -0.3


def weights(x):
    return 0.5 + x[:, 0].abs()


def under(effect, program):
    """The program under a handler that depends on the data."""

    def run(x):
        with effect(x):
            program(x)

    return run


def mask(program, of):
    return under(lambda x: poutine.mask(mask=of(x)), program)


def scale(program, of):
    return under(lambda x: poutine.scale(scale=of(x)), program)


def plain_model(x):
    with plate(x):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)


def plain_guide(x):
    with plate(x):
        pyro.sample("z", posterior(x))


# Two observed sites, deterministic sites, factors


def two_observed(x):
    with plate(x):
        z = pyro.sample("z", prior())
        pyro.sample("first", dist.Normal(means(z), 0.8).to_event(1), obs=x)
        pyro.sample("second", dist.Poisson(z.sum(-1).exp()), obs=x[:, 0].abs().round())


def deterministic(x):
    with plate(x):
        z = pyro.sample("z", prior())
        loc = pyro.deterministic("loc", means(z), event_dim=1)
        pyro.sample("x", dist.Normal(loc, 0.8).to_event(1), obs=x)


def with_factor(x):
    with plate(x):
        z = pyro.sample("z", prior())
        pyro.factor("likelihood", -(x - means(z)).square().sum(-1))
        pyro.factor("penalty", z.abs().sum(-1))


def factor_guide(has_rsample):
    def guide(x):
        with plate(x):
            z = pyro.sample("z", posterior(x))
            pyro.factor("volume", 0.3 * z.sum(-1).tanh(), has_rsample=has_rsample)

    return guide


# Masks


def masked_observation(of):
    def model(x):
        with plate(x):
            z = pyro.sample("z", prior())
            with poutine.mask(mask=of(x)):
                pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)

    return model


def masked_elements(x):
    with plate(x):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(means(z), 0.8).mask(elements(x)).to_event(1), obs=x)


def masked_rows(x):
    with plate(x):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1).mask(rows(x)), obs=x)


def masked_second(x):
    with plate(x):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)
        pyro.sample("unseen", dist.Normal(z[..., 0], 1.0).mask(False), obs=x[:, 0])


def masked_latent(x):
    with plate(x):
        z = pyro.sample("z", prior().expand(x.shape[:1]).mask(rows(x)))
        pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)


def masked_latent_guide(x):
    with plate(x):
        pyro.sample("z", posterior(x).mask(rows(x)))


# Partial observation: stock Pyro makes two sites of one


def partly_observed(x):
    with plate(x):
        z = pyro.sample("z", prior())
        p = dist.Normal(means(z), 0.8).to_event(1)
        pyro.sample("x", p, obs=x, obs_mask=rows(x))


def partly_observed_guide(x):
    with plate(x):
        pyro.sample("z", posterior(x))
        with poutine.mask(mask=~rows(x)):
            filled = parameter("filled", D)
            pyro.sample("x_unobserved", dist.Normal(filled, 0.5).to_event(1))


# Plates to the left and to the right of that of the data, and in turn


def left(x):
    with plate(x, dim=-1):
        z = pyro.sample("z", prior())
        with pyro.plate("columns", D, dim=-2):
            loc = means(z).mT
            loc = loc.squeeze(-3) if loc.dim() > 2 else loc
            pyro.sample("x", dist.Normal(loc, 0.8), obs=x.T)


def right(x):
    with plate(x, dim=-2):
        z = pyro.sample("z", prior())
        with pyro.plate("columns", D, dim=-1):
            pyro.sample("x", dist.Normal(means(z).squeeze(-2), 0.8), obs=x)


def right_guide(x):
    with plate(x, dim=-2):
        pyro.sample("z", posterior(x[:, None]))


def one_by_one(x):
    with plate(x):
        z = pyro.sample("z", prior())
        for i in pyro.plate("columns", D):
            pyro.sample(f"x{i}", dist.Normal(means(z)[..., i], 0.8), obs=x[:, i])


def around(x):
    """All sites are in a plate around the data's, of another size and of the same one."""
    with pyro.plate("copies", D, dim=-2), plate(x, dim=-1):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x.expand(D, *x.shape))


def around_guide(x):
    with pyro.plate("copies", D, dim=-2), plate(x, dim=-1):
        pyro.sample("z", posterior(x))


# Subsampled plates


POPULATION = 40


def subsample(x, **options):
    return pyro.plate("data", POPULATION, subsample=torch.arange(len(x)), **options)


def subsampled(x):
    with subsample(x):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)


def subsampled_guide(x):
    with subsample(x):
        pyro.sample("z", posterior(x))


def some_columns(x):
    with plate(x, dim=-1):
        z = pyro.sample("z", prior())
        with pyro.plate("columns", D, subsample_size=2, dim=-2) as i:
            pyro.sample("x", dist.Normal(means(z)[..., i].mT, 0.8), obs=x[:, i].T)


# Latents without a reparametrised draw


def bernoulli(x):
    with plate(x):
        z = pyro.sample("z", dist.Bernoulli(logits=parameter("prior", K)).to_event(1))
        pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)


def bernoulli_guide(x):
    with plate(x):
        pyro.sample("z", dist.Bernoulli(logits=x @ parameter("gain", D, K)).to_event(1))


def categorical(x):
    with plate(x):
        i = pyro.sample("i", dist.Categorical(logits=parameter("prior", K)))
        z = pyro.sample("z", dist.Normal(torch.eye(K)[i], 1.0).to_event(1))
        pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)


def categorical_guide(x):
    with plate(x):
        i = pyro.sample("i", dist.Categorical(logits=x @ parameter("gain", D, K)))
        loc = x[:, :K] + torch.eye(K)[i] * parameter("shift", K)
        pyro.sample("z", dist.Normal(loc, 0.7).to_event(1))


# What has a test of its own, or is refused


def deterministic_outside(x):
    pyro.deterministic("twice", 2 * parameter("bias", D))
    deterministic(x)


def deterministic_guide(x):
    with plate(x):
        z = pyro.sample("z", posterior(x))
        pyro.deterministic("square", z.square(), event_dim=1)


def sub_right(x):
    with subsample(x, dim=-2):
        z = pyro.sample("z", prior())
        with pyro.plate("columns", D, dim=-1):
            pyro.sample("x", dist.Normal(means(z).squeeze(-2), 0.8), obs=x)


def sub_right_guide(x):
    with subsample(x, dim=-2):
        pyro.sample("z", posterior(x[:, None]))


def factor_outside(x):
    plain_model(x)
    pyro.factor("decay", -parameter("weight", K, D).square().sum())


def factor_outside_guide(x):
    plain_guide(x)
    pyro.factor("decay", parameter("gain", D, K).square().sum(), has_rsample=True)


def latent_outside(x):
    pyro.sample("shared", dist.Normal(0.0, 1.0))
    plain_model(x)


def latent_outside_guide(x):
    pyro.sample("shared", dist.Normal(parameter("level", 1)[0], 1.0))
    plain_guide(x)


def unobserved(x):
    with plate(x):
        pyro.deterministic("x", means(pyro.sample("z", prior())), event_dim=1)


def scale_repeated(x):
    with plate(x):
        z = pyro.sample("z", prior())
        with poutine.scale(scale=weights(x)[:, None]):
            pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)


def mask_repeated(x):
    with plate(x):
        z = pyro.sample("z", prior())
        with poutine.mask(mask=elements(x)):
            pyro.sample("x", dist.Normal(means(z), 0.8).to_event(1), obs=x)


def two_plates(name):
    def model(x):
        with pyro.plate(name, len(x), dim=-2), pyro.plate("columns", D, dim=-1):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(means(z)[..., 0], 0.8), obs=x)

    def guide(x):
        with pyro.plate(name, len(x), dim=-2), pyro.plate("columns", D, dim=-1):
            pyro.sample("z", posterior(x[:, None]))

    return model, guide


def other_name(x):
    with pyro.plate("rows", len(x), dim=-1):
        z = pyro.sample("z", prior())
        with pyro.plate("columns", D, dim=-2):
            pyro.sample("x", dist.Normal(means(z).mT, 0.8), obs=x.T)


_MASKS = "knows no masks"
_SCORE = "elbo='analytic' has no gradient through what is not reparametrised"
_SCALES = "site 'z': elbo='analytic' needs one scale for model and guide"

CASES = {
    "plain": Case(plain_model, plain_guide),
    "two observed": Case(two_observed, plain_guide),
    "deterministic": Case(deterministic, plain_guide),
    "factors": Case(with_factor, plain_guide),
    "a factor in the guide": Case(plain_model, factor_guide(True)),
    "a factor in the guide, not reparametrised": Case(
        plain_model, factor_guide(False), score=True, analytic="site 'volume': " + _SCORE
    ),
    "scale of both": Case(
        scale(plain_model, lambda x: 0.3), scale(plain_guide, lambda x: 0.3), scaled=True
    ),
    "scale of the model": Case(
        scale(plain_model, lambda x: 0.3), plain_guide, scaled=True, analytic=_SCALES
    ),
    "scale of the guide": Case(
        plain_model, scale(plain_guide, lambda x: torch.tensor(2.0)), scaled=True, analytic=_SCALES
    ),
    "scale of each datum": Case(
        scale(plain_model, weights), scale(plain_guide, weights), scaled=True
    ),
    "scale under score function": Case(
        scale(bernoulli, weights),
        scale(bernoulli_guide, weights),
        scaled=True,
        score=True,
        analytic=_SCORE,
    ),
    "mask of rows": Case(masked_observation(rows), plain_guide),
    "mask of one element": Case(masked_observation(lambda x: torch.tensor(True)), plain_guide),
    "mask True": Case(masked_observation(lambda x: True), plain_guide),
    "mask False": Case(masked_observation(lambda x: False), plain_guide),
    "mask of elements": Case(masked_elements, plain_guide),
    "mask of rows in the distribution": Case(masked_rows, plain_guide),
    "mask False in the distribution": Case(masked_second, plain_guide),
    "mask of rows of all sites": Case(
        mask(plain_model, rows), mask(plain_guide, rows), analytic=_MASKS
    ),
    "mask of a latent": Case(masked_latent, masked_latent_guide, analytic=_MASKS),
    "mask of a latent of the model": Case(masked_latent, plain_guide, analytic=_MASKS),
    "mask under score function": Case(
        mask(bernoulli, rows),
        mask(bernoulli_guide, rows),
        score=True,
        analytic=_SCORE,
    ),
    "partly observed": Case(partly_observed, partly_observed_guide, analytic=_MASKS),
    "columns to the left": Case(left, plain_guide, nesting=2),
    "columns to the right": Case(right, right_guide, data_dim=-2, nesting=2),
    "columns in turn": Case(one_by_one, plain_guide),
    "a plate around all": Case(around, around_guide, nesting=2, bound="per datum"),
    "subsampled": Case(subsampled, subsampled_guide, scaled=True, bound="outside"),
    "subsampled columns": Case(
        some_columns, plain_guide, nesting=2, weighted="site 'x': a plate inside the datum"
    ),
    "Bernoulli": Case(bernoulli, bernoulli_guide, score=True, analytic=_SCORE),
    "categorical above normal": Case(
        categorical, categorical_guide, score=True, analytic="site 'i': " + _SCORE
    ),
}
