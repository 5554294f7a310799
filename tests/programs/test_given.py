"""Data in any form reach the arguments of a program that they belong to, or are refused."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import Trainer, diagnostics, guides, infer, likelihoods, models
from pyro_vae.data import Arguments, Dataset

N = 40
LABELS = torch.arange(N) % 3
X = LABELS[:, None] * 2.0 + torch.randn(N, 2, generator=torch.Generator().manual_seed(1))
LEVELS = torch.tensor([0.0, 2.0, 4.0])


def reading(name, *, keyword=False):
    """A pair whose only signal are its labels, under a name of their own."""
    code = f"""
def model(x, {"*, " * keyword}{name}, width=1.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(LEVELS[{name}], 0.1))
        pyro.sample("x", dist.Normal(z[:, None], width).expand([len(x), 2]).to_event(1), obs=x)

def guide(x, {"*, " * keyword}{name}):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(LEVELS[{name}], 0.1))
"""
    found = {"pyro": pyro, "dist": dist, "LEVELS": LEVELS}
    exec(code, found)
    return found["model"], found["guide"]


def stock(model, guide, *args, **kwargs):
    pyro.set_rng_seed(0)
    return -Trace_ELBO().loss(model, guide, *args, **kwargs) / N


@pytest.mark.parametrize("name", ["y", "ys", "labels", "target"])
def test_labels_reach_the_program_whatever_it_calls_them(name):
    model, guide = reading(name)
    expected = stock(model, guide, X, LABELS)
    assert expected > -6
    forms = [(X, LABELS), {"x": X, name: LABELS}, Arguments((X, LABELS)), TensorDataset(X, LABELS)]
    forms += [(X.numpy(), LABELS.numpy())] if name != "y" else []
    for data in forms:
        pyro.set_rng_seed(0)
        terms = infer.elbo_terms(model, guide, data)
        assert math.isclose(float(terms.elbo.mean()), expected, rel_tol=1e-5)
        trainer = Trainer(model, guide, seed=0)
        with pytest.raises(ValueError, match="no trainable parameters"):
            trainer.fit(data, epochs=1, progress=False)
    wrong = infer.elbo_terms(model, guide, (X, LABELS.flip(0))).elbo.mean()
    assert wrong < expected - 2


def test_labels_of_a_data_set_are_data_of_a_program_that_has_an_argument_for_them():
    model, guide = reading("labels")
    found = diagnostics.evaluate(model, guide, Dataset(X, LABELS), importance_samples=0)
    assert abs(float(found.terms.elbo.mean()) - stock(model, guide, X, LABELS)) < 0.1
    with pytest.raises(ValueError, match="no argument y, got binarize='dynamic'"):
        diagnostics.evaluate(model, guide, Dataset(X.sigmoid(), LABELS, binarize="dynamic"))

    def other(x, scale=1.0):
        return one(x)

    # Nor are they taken for something else
    found = diagnostics.evaluate(other, alone, Dataset(X, LABELS), importance_samples=30)
    expected = diagnostics.evaluate(one, alone, X, importance_samples=30)
    assert torch.equal(found.terms.elbo, expected.terms.elbo)
    assert torch.equal(found.importance.log_likelihood, expected.importance.log_likelihood)


def test_keyword_arguments_are_given_by_name():
    model, guide = reading("labels", keyword=True)
    expected = stock(model, guide, X, labels=LABELS)
    pyro.set_rng_seed(0)
    terms = infer.elbo_terms(model, guide, {"x": X, "labels": LABELS})
    assert math.isclose(float(terms.elbo.mean()), expected, rel_tol=1e-5)
    with pytest.raises(TypeError, match=r"got argument 2 besides: leave it out"):
        infer.elbo_terms(model, guide, (X, LABELS))


@pytest.mark.parametrize(
    "y",
    [
        torch.linspace(-1, 1, N),
        torch.eye(3)[LABELS],
        torch.eye(3)[LABELS].long(),
        torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(2)),
        np.linspace(-1, 1, N),
    ],
)
def test_values_that_are_no_labels_are_data_like_any_other(y):
    seen = []

    def model(x, y):
        seen.append(y)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), 2]).to_event(1), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1), 1.0))

    infer.elbo_terms(model, guide, X, y=y)
    expected = torch.as_tensor(y)
    assert seen[-1].shape == expected.shape
    assert torch.allclose(seen[-1].double(), expected.double())
    seen.clear()
    diagnostics.evaluate(model, guide, (X, y), importance_samples=0)
    assert torch.allclose(seen[-1].double(), expected.double())


def test_constants_are_given_to_the_programs_that_take_them():
    model, guide = reading("ys")
    narrow, wide = (
        infer.elbo_terms(model, guide, (X, LABELS), arguments={"width": width}).elbo.mean()
        for width in (0.5, 1.0)
    )
    assert narrow < wide - 1
    result = diagnostics.evaluate(model, guide, (X, LABELS), arguments={"width": 1.0})
    exact = dist.Normal(LEVELS[LABELS], 0.1)
    z = exact.sample((20_000,))
    log_p = dist.Normal(z[..., None], 1.0).log_prob(X).sum(-1).logsumexp(0) - math.log(20_000)
    assert abs(float(result.importance.log_likelihood.mean() - log_p.mean())) < 0.02


def one(x, ys=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), 2]).to_event(1), obs=x)


def alone(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.mean(1), 1.0))


def test_the_other_program_need_not_take_all():
    terms = infer.elbo_terms(one, alone, (X, LABELS))
    assert torch.equal(terms.elbo, infer.elbo_terms(one, alone, X).elbo)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, LABELS, LABELS), r"one\(x, ys=None\) or alone\(x\) takes, got argument 3 besides"),
        ({"x": X, "labels": LABELS}, r"takes, got the argument 'labels' besides: leave it out"),
        ({"ys": LABELS}, r"expected 'x' as well for one\(x, ys=None\)"),
        ((X, LABELS[:3]), r"as many rows in each, got 40 of data\[0\], 3 of data\[1\]"),
        ((X, "abc"), r"\[1\]: expected a tensor, an array"),
    ],
)
def test_data_that_no_program_takes_are_refused(data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        infer.elbo_terms(one, alone, data)
    with pytest.raises((TypeError, ValueError), match=message):
        Trainer(one, alone).fit(data, epochs=1, progress=False)


def test_constants_of_no_name_are_refused():
    with pytest.raises(ValueError, match="expected one of x, ys, got 'y'; did you mean"):
        infer.elbo_terms(one, alone, X, arguments={"y": 1})
    vae = models.VAE((2,), latents=1, likelihood=likelihoods.Gaussian())
    with pytest.raises(TypeError, match=r"arguments: expected none.*got 'k': pass x, or \(x, y\)"):
        infer.elbo_terms(vae, guides.BottomUp(vae), X, arguments={"k": 1})


def test_whole_numbers_stay_whole_for_programs_of_ones_own():
    seen = []

    def counts(x):
        seen.append(x.dtype)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Poisson(z.exp()), obs=x)

    def rates(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.ones(len(x)), 1.0))

    infer.elbo_terms(counts, rates, LABELS)
    diagnostics.evaluate(counts, rates, LABELS, importance_samples=0)
    assert set(seen) == {torch.int64}


class Scaled(torch.nn.Module):
    """Learns from three arguments: one datum's own weight, and a constant."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, ys, weights, width):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=weights):
            z = pyro.sample("z", dist.Normal(ys, 1.0))
            loc = z[:, None] + self.shift
            pyro.sample("x", dist.Normal(loc, width).to_event(1), obs=x)


class Encoded(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def forward(self, x, ys, weights, width):
        loc, scale = self.net(torch.cat([x, ys[:, None]], 1)).unbind(1)
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=weights):
            pyro.sample("z", dist.Normal(loc, scale.exp()))


def test_minibatches_loaders_and_checkpoints_give_the_same_run(tmp_path):
    data = (X, LABELS.float(), torch.linspace(0.5, 1.5, N))
    width = {"width": torch.tensor(0.8)}
    runs = []
    for engine in ("eager", "graph"):
        pyro.set_rng_seed(0)
        model, guide = Scaled(), Encoded()
        trainer = Trainer(model, guide, seed=0, lr=1e-2, engine=engine)
        trainer.fit(data, arguments=width, epochs=60, batch_size=16, progress=False)
        runs.append([{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history])
    assert runs[0] == runs[1]
    assert trainer.steps.running.records == 2  # of both sizes of batches
    assert runs[0][-1]["elbo"] > runs[0][0]["elbo"] + 1
    # In parts, from checkpoints
    pyro.set_rng_seed(0)
    model, guide = Scaled(), Encoded()
    Trainer(model, guide, seed=0, lr=1e-2).fit(
        data, arguments=width, epochs=2, batch_size=16, progress=False, checkpoint=tmp_path
    )
    again = Trainer.resume(tmp_path, model=Scaled(), guide=Encoded())
    again.fit(data, arguments=width, epochs=60, progress=False)
    assert again.history[-1]["elbo"] == runs[0][-1]["elbo"]
    other = Trainer.resume(tmp_path, model=Scaled(), guide=Encoded())
    with pytest.raises(ValueError, match=r"data: width: expected .* as in the run that goes on"):
        other.fit(data, arguments={"width": torch.tensor(0.9)}, epochs=61, progress=False)
    # In order, a loader gives the batches of the data themselves
    loader = DataLoader(TensorDataset(*data), batch_size=16)
    trainer = Trainer(Scaled(), Encoded(), seed=0)
    trainer.fit(loader, arguments=width, epochs=2, progress=False, validation=data)
    assert trainer.history[-1]["validation"]["elbo"] < 0


def test_draws_of_all_sites_have_the_moments_of_the_program():
    many = torch.zeros(20_000, 2)
    drawn = infer.sample(one, many)
    assert list(drawn) == ["z", "x"]
    x = drawn["x"].double()
    assert x.mean(0).abs().max() < 5 * math.sqrt(2 / len(many))
    # x_k = z + e_k: variances 2, covariance 1
    expected = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    assert (x.T.cov() - expected).abs().max() < 5 * math.sqrt(8 / len(many))
