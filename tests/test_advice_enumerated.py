"""What is said about latents that are summed out, and that its advice works."""

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

from pyro_vae import handlers, infer
from pyro_vae.infer import TraceEnumELBO

X = torch.linspace(-1, 1, 8)
PARALLEL = {"enumerate": "parallel"}
cases = Cases()


def model(infer=PARALLEL, scale=1.0, words=None):
    def model(x):
        with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=scale):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer=infer)
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x)

    return model


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x, 1.0))


def guide_with(**marks):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Bernoulli(0.4), infer=marks)
            pyro.sample("z", dist.Normal(x + k, 1.0))

    return guide


def bound(*pair, elbo=None, x=X):
    elbo = elbo or TraceEnumELBO()
    return lambda: elbo(*pair, x)


def stock(model, guide, x=X):
    return lambda: TraceEnum_ELBO(max_plate_nesting=2).loss(model, guide, x)


@cases
def marks(tmp):
    right = bound(model(), guide_with(**PARALLEL))
    yield bound(model(), guide_with(enumerate="sequential")), right
    sampled = guide_with(enumerate="parallel", num_samples=2, expand=True)
    yield bound(model(), sampled), right
    yield bound(model(), sampled), stock(model(), sampled)


@cases
def drawn(tmp):
    yield bound(model(), guide_with()), bound(model(), guide_with(**PARALLEL))
    yield bound(model(), guide_with()), bound(model(), guide)


@cases
def outside(tmp):
    def of(x, *, each):
        plate = pyro.plate("data", len(x), dim=-1)
        if not each:
            k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
        with plate:
            if each:
                k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x)

    def shared(x):
        of(x, each=False)

    yield bound(shared, guide), bound(lambda x: of(x, each=True), guide)
    yield bound(shared, guide), stock(shared, guide)


@cases
def subsampled(tmp):
    x = torch.linspace(-1, 1, 8).reshape(4, 2)

    def words(x, size=None):
        inside = pyro.plate("words", 2, subsample_size=size, dim=-1)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with inside as i:
                k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
                pyro.sample("x", dist.Normal(z + k, 1.0), obs=x[:, i])

    def of_words(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 1.0))

    def part(x):
        words(x, 1)

    yield bound(part, of_words, x=x), bound(words, of_words, x=x)
    yield bound(part, of_words, x=x), stock(part, of_words, x)


@cases
def scales(tmp):
    weights = torch.linspace(1, 2, 8)
    yield bound(model(scale=weights), guide), bound(model(scale=2.0), guide)
    alone = handlers.scale_latents(only(), 2.0), lambda x: None
    yield bound(*alone), bound(only(), lambda x: None)

    def guide_of_k(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Bernoulli(0.4), infer=PARALLEL)

    yield bound(*alone), bound(alone[0], handlers.scale_latents(guide_of_k, 2.0))


def only():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    return model


@cases
def free_bits(tmp):
    free = handlers.free_bits(guide, 0.5)
    yield bound(model(), free), bound(model(), guide)


@cases
def posteriors(tmp):
    def asked(model, guide, **options):
        return lambda: infer.discrete_posterior(model, guide, X, **options)

    yield asked(model(infer={}), guide_with()), asked(model(), guide)

    def two(x):
        with pyro.plate("data", len(x), dim=-1):
            j = pyro.sample("j", dist.Bernoulli(0.3), infer=PARALLEL)
            k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z + j, 1.0), obs=x)

    yield asked(two, guide), asked(two, guide, site="j")
    yield asked(two, guide, site="l"), asked(two, guide, site="k")


@cases
def annealing(tmp):
    def estimate(model, guide):
        return lambda: infer.annealed(model, guide, X, temperatures=5, chains=2, progress=False)

    yield estimate(model(), guide_with()), estimate(model(), guide)


@cases
def predictions(tmp):
    def error(guide):
        return lambda: infer.mean_squared_error(model(), guide, X)

    yield error(guide), error(guide_with())


@cases
def nesting(tmp):
    """A switch of the document, and topics of its words."""
    x = torch.linspace(-1, 1, 8).reshape(4, 2)

    def model(x):
        words = pyro.plate("words", 2, dim=-1)
        with pyro.plate("data", len(x), dim=-2):
            s = pyro.sample("s", dist.Bernoulli(0.3), infer=PARALLEL)
            with words:
                k = pyro.sample("k", dist.Bernoulli(0.3), infer=PARALLEL)
                pyro.sample("x", dist.Normal(s + k, 1.0), obs=x)

    def of(*sites):
        def guide(x):
            words = pyro.plate("words", 2, dim=-1)
            with pyro.plate("data", len(x), dim=-2):
                if "s" in sites:
                    pyro.sample("s", dist.Bernoulli(0.4), infer=PARALLEL)
                if "k" in sites:
                    with words:
                        pyro.sample("k", dist.Bernoulli(x.sigmoid()), infer=PARALLEL)

        return guide

    yield bound(model, of("k"), x=x), bound(model, of("s", "k"), x=x)
    yield bound(model, of("k"), x=x), bound(model, of(), x=x)


@cases
def imputations(tmp):
    x = X.where(X < 0.9, torch.nan)

    def completed(marks, guide):
        whole = handlers.missing(model(infer=marks))
        return lambda: infer.impute(whole, lambda x: guide(x.nan_to_num()), x, samples=5)

    yield completed(PARALLEL, guide), completed({}, guide_with())


@cases
def unmarked(tmp):
    plain = model(infer={})
    elbo = infer.TraceELBO()
    drawn = bound(plain, guide_with(), elbo=elbo)
    yield bound(plain, guide, elbo=elbo), bound(model(), guide), drawn
    yield bound(plain, guide), bound(model(), guide)
