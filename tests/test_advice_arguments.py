"""What is said about the arguments of programs of a person's own, and that its advice works."""

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from torch import nn

from pyro_vae import Trainer, data, diagnostics, infer
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

N, D = 6, 3
X = torch.linspace(-1, 1, N * D).view(N, D)
Y = torch.arange(N) % 2
cases = Cases()


def model(x, ys, width=1.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ys.float(), 1.0))
        loc = z[:, None].expand(len(x), D)
        pyro.sample("x", dist.Normal(loc, width).to_event(1), obs=x)


def guide(x, ys):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(ys.float(), 1.0))


def terms(*args, **options):
    return lambda: infer.elbo_terms(model, guide, *args, **options)


@cases
def arguments(tmp):
    ours = VAE((D,), 2, hidden=(4,), likelihood=Gaussian())
    pair = ours, BottomUp(ours)
    widths = torch.ones(2, D)
    yield terms({"x": X, "ys": Y, "width": widths}), terms((X, Y), arguments={"width": 2.0})
    yield terms({"x": X, "ys": Y, "width": 2.0}), terms((X, Y), arguments={"width": 2.0})
    once = {"x": X, "ys": Y, "width": torch.tensor(2.0)}
    yield terms(once), terms((X, Y), arguments={"width": torch.tensor(2.0)})
    yield terms((X, Y, Y, Y)), terms((X, Y))
    yield terms({"x": X}), terms((X, Y)), terms({"x": X, "ys": Y})
    yield terms(X), terms((X, Y)), terms({"x": X, "ys": Y})
    yield terms({"ys": Y}), terms((X, Y)), terms({"x": X, "ys": Y}, arguments={"width": 2.0})
    yield terms((X, Y), arguments={"widht": 2.0}), terms((X, Y), arguments={"width": 2.0})
    both = lambda *args, **options: lambda: infer.elbo_terms(*pair, *args, **options)  # noqa: E731
    yield both(X, arguments={"k": 1}), both(X), both((X, Y))
    drawn = data.Dataset(X.sigmoid(), Y, binarize="dynamic")
    fixed = drawn.binarized(torch.Generator())
    evaluated = lambda d: lambda: diagnostics.evaluate(model, guide, d)  # noqa: E731
    yield evaluated(drawn), evaluated(fixed)


@cases
def forms(tmp):
    wide = {"width": 2.0}
    yield terms((X, Y), arguments=[2.0]), terms((X, Y), arguments=wide)
    yield terms((X, Y), arguments={"ys": Y, **wide}), terms((X, Y), arguments=wide)

    def named(x, *, labels=None):
        return model(x, Y[: len(x)] if labels is None else labels)

    def either(x, shift=None, y=None):
        return named(x, labels=y)

    def found(program, given):
        return lambda: infer.elbo_terms(program, lambda x: guide(x, Y), given)

    d = data.Dataset(X, Y)
    yield found(named, d), found(named, {"x": d.x, "labels": d.y}), found(named, d.x)
    by_name = ({"x": X, "shift": Y}, {"x": X, "y": Y})
    yield found(either, (X, Y)), *[found(either, given) for given in by_name]


class Rows(nn.Module):
    """Parameters for each of some rows."""

    def __init__(self, fixed):
        super().__init__()
        self.fixed, self.loc = fixed, nn.Parameter(torch.zeros(N if fixed else 1))

    def model(self, x):
        with pyro.plate("rows", N if self.fixed else len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            pyro.sample("x", dist.Normal(z[:, None] + 0 * x, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", N if self.fixed else len(x)):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


@cases
def whole_batches(tmp):
    def fit(fixed, **options):
        rows = Rows(fixed)
        trainer = Trainer(rows.model, rows.guide)
        return lambda: trainer.fit(X, epochs=1, progress=False, **options)

    yield fit(True, batch_size=2), fit(True), fit(False, batch_size=2)


test_the_advice_works_on_what_provokes_it = cases.test()
