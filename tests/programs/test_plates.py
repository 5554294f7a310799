"""Which plate is that of the data: whatever its name, dimension and size."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import Trainer, diagnostics, infer
from pyro_vae.infer import AnalyticELBO, ImportanceWeightedELBO, TraceELBO
from pyro_vae.programs.running import trace_pair

N, T, SIGMA = 5, 3, 0.6


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def sequences():
    """T values of each of N data, (N, T)."""
    return torch.randn(N, T, generator=torch.Generator().manual_seed(1))


class Named(torch.Tensor):
    """Data that tell the name of their plate, as a person gave it."""

    plate: str | None = None


def named(x, plate):
    x = x.clone().as_subclass(Named)
    x.plate = plate
    return x


def evidence(x):
    """log p of each row of (N, T): x_it ~ N(z_i, SIGMA), z_i ~ N(0, 1)."""
    covariance = SIGMA**2 * torch.eye(T) + 1
    return dist.MultivariateNormal(torch.zeros(T), covariance).log_prob(x)


PRECISION = 1 + T / SIGMA**2


def posterior(total):
    return dist.Normal(total / SIGMA**2 / PRECISION, PRECISION**-0.5)


# Each takes the data as it names them, and lays them out as they are given


def as_event(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), SIGMA).expand(x.shape).to_event(1), obs=x)


def as_event_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x.sum(-1)))


def in_a_matrix(x):
    """The data plate has dim -2; their elements are in a plate to the right."""
    with pyro.plate("rows", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]))
        with pyro.plate("columns", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x)


def in_a_matrix_guide(x):
    with pyro.plate("rows", len(x), dim=-2):
        pyro.sample("z", posterior(x.sum(-1, keepdim=True)))


def around_sequences(x):
    """Data (T, N): their plate is dimension 1 of x."""
    with pyro.plate("sequences", x.shape[1], dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for t in range(len(x)):
            pyro.sample(f"x{t}", dist.Normal(z, SIGMA), obs=x[t])


def around_sequences_guide(x):
    with pyro.plate("sequences", x.shape[1], dim=-1):
        pyro.sample("z", posterior(x.sum(0)))


def by_time(x):
    """The same with a plate of the steps, to the left, which is as large as x."""
    with pyro.plate("sequences", x.shape[1], dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("time", len(x), dim=-2):
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x)


def nothing(x):
    """A program that has its data."""
    in_a_matrix(sequences())


def nothing_guide(x):
    in_a_matrix_guide(sequences())


LAYOUTS = {
    "an event": (as_event, as_event_guide, sequences()),
    "a matrix": (in_a_matrix, in_a_matrix_guide, sequences()),
    "columns of x": (around_sequences, around_sequences_guide, sequences().mT),
    "columns of x, named": (by_time, around_sequences_guide, named(sequences().mT, "sequences")),
    "no data": (nothing, nothing_guide, torch.zeros(0)),
}
layouts = pytest.mark.parametrize(("model", "guide", "x"), LAYOUTS.values(), ids=LAYOUTS)


@layouts
@pytest.mark.parametrize("estimator", [TraceELBO(), AnalyticELBO()])
def test_terms_are_of_each_datum_wherever_their_plate_is(estimator, model, guide, x):
    loss, terms = estimator(model, guide, x)
    assert terms.elbo.shape == (N,)
    torch.testing.assert_close(loss, -terms.elbo.sum())
    if isinstance(estimator, TraceELBO):
        torch.testing.assert_close(terms.elbo, evidence(sequences()))


@layouts
def test_the_loss_is_that_of_stock_pyro(model, guide, x):
    torch.manual_seed(1)
    expected = Trace_ELBO().loss(model, guide, x)
    torch.manual_seed(1)
    assert float(TraceELBO()(model, guide, x)[0]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["an event", "a matrix"])
def test_weights_of_rows(name):
    model, guide, x = LAYOUTS[name]
    loss, _ = ImportanceWeightedELBO(3)(model, guide, x)
    torch.testing.assert_close(-loss, evidence(x).sum())
    found = infer.importance(model, guide, x, samples=4).log_likelihood
    torch.testing.assert_close(found, evidence(x))
    assert diagnostics.collapse(model, guide, x).units["z"].variance.shape == (1,)


@pytest.mark.parametrize("use", [lambda *of: ImportanceWeightedELBO(3)(*of), infer.importance])
def test_weights_of_what_is_no_row(use):
    message = "plate 'sequences': expected one datum for each of the . rows of the data, got 5"
    with pytest.raises(ValueError, match=message):
        use(around_sequences, around_sequences_guide, sequences().mT)


def test_a_plate_that_the_program_subsamples():
    index = torch.tensor([3, 0])

    def subsampled(x):
        with pyro.plate("rows", len(x), subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            p = dist.Normal(z.unsqueeze(-1), SIGMA).expand([2, T]).to_event(1)
            pyro.sample("x", p, obs=x[index])

    def its_guide(x):
        with pyro.plate("rows", len(x), subsample=index):
            pyro.sample("z", posterior(x[index].sum(-1)))

    x = sequences()
    loss, terms = TraceELBO()(subsampled, its_guide, x)
    torch.testing.assert_close(terms.elbo, evidence(x)[index])
    torch.testing.assert_close(-loss, N / 2 * evidence(x)[index].sum())
    mean, _ = TraceELBO("mean")(subsampled, its_guide, x)
    torch.testing.assert_close(-mean, evidence(x)[index].mean())


def two(first, second, x):
    with pyro.plate(first, x.shape[0], dim=-2), pyro.plate(second, x.shape[1], dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, SIGMA), obs=x)


def two_guide(first, second, x):
    with pyro.plate(first, x.shape[0], dim=-2), pyro.plate(second, x.shape[1], dim=-1):
        pyro.sample("z", dist.Normal(x, 1.0))


def test_several_plates_that_may_be_it():
    x = torch.randn(4, 4)
    pair = [lambda x, p=p: p("rows", "columns", x) for p in (two, two_guide)]
    message = r"the plates 'rows', 'columns' are all as large as the data \(4\): pass plate="
    with pytest.raises(ValueError, match=message):
        TraceELBO()(*pair, x)
    torch.manual_seed(1)
    _, terms = TraceELBO()(*pair, named(x, "columns"))
    torch.manual_seed(1)
    p, q = trace_pair(*pair, x)
    p.compute_log_prob(), q.compute_log_prob()
    log_p, log_q = (sum(t.nodes[s]["log_prob"] for s in "zx" if s in t.nodes) for t in (p, q))
    torch.testing.assert_close(terms.elbo, (log_p - log_q).sum(0))
    of_data = [lambda x, p=p: p("data", "columns", x) for p in (two, two_guide)]
    assert TraceELBO()(*of_data, x)[1].elbo.shape == (4,)


def test_several_plates_around_what_is_observed():
    x = torch.randn(4, 4)
    pair = [lambda x, p=p: p("rows", "columns", torch.randn(2, 3)) for p in (two, two_guide)]
    with pytest.raises(
        ValueError, match="'rows', 'columns' are all around what is observed: pass"
    ):
        TraceELBO()(*pair, x)


def test_a_name_that_no_plate_has():
    with pytest.raises(
        ValueError, match=r"plate: expected one of rows, columns, got 'row'; did yo"
    ):
        TraceELBO()(in_a_matrix, in_a_matrix_guide, named(sequences(), "row"))


class Components(nn.Module):
    """Two means that all data share, in a plate as large as two rows of a trial."""

    def __init__(self, guide=False):
        super().__init__()
        self.loc, self.guide = nn.Parameter(torch.tensor([-1.0, 1.0])), guide

    def forward(self, x):
        with pyro.plate("components", 2):
            means = pyro.sample("means", dist.Normal(self.loc, 1.0))
        with pyro.plate("data", len(x)):
            if not self.guide:
                mixture = dist.MixtureSameFamily(
                    dist.Categorical(torch.ones(2)), dist.Normal(means, SIGMA)
                )
                pyro.sample("x", mixture.expand([len(x)]), obs=x[:, 0])


def test_a_plate_of_two_is_told_from_the_two_data_of_a_trial():
    x = sequences()
    for use in (
        lambda *pair: infer.check_pair(*pair, x).outside,
        lambda *pair: list(infer.elbo_terms(*pair, x).kl_global),
        lambda *pair: list(infer.elbo_terms(*pair, named(x[:2], "data")).kl_global),
    ):
        assert list(use(Components(), Components(guide=True))) == ["means"]
    with pytest.raises(ValueError, match=r"site 'means': its plate 'components' .* plate='data'"):
        infer.elbo_terms(Components(), Components(guide=True), x[:2])


def test_a_plate_that_was_of_another_size_is_none_of_the_data():
    """So that no batch that happens to be as large ends a run."""
    pair, x = (Components(), Components(guide=True)), sequences()
    infer.elbo_terms(*pair, x)
    assert list(infer.elbo_terms(*pair, x[:2]).kl_global) == ["means"]
    trainer = Trainer(*pair)
    trainer.fit(x, epochs=2, batch_size=3, progress=False)
    assert list(trainer.history[-1]["kl_global"]) == ["means"]


class Elements(nn.Module):
    """A latent for each element of a matrix, whose rows are the data."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def model(self, x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 3, dim=-1):
            pyro.sample("z", dist.Normal(self.gain * x, 0.5))


@pytest.mark.parametrize("batch_size", [4, 3], ids=["last", "first"])
def test_batches_as_large_as_a_plate_inside_a_datum(batch_size):
    pair, x = Elements(), torch.randn(7, 3)
    trainer = Trainer(pair.model, pair.guide)
    trainer.fit(x, epochs=2, batch_size=batch_size, validation=x[:3], progress=False)
    assert len(infer.elbo_terms(pair.model, pair.guide, x[:3]).elbo) == 3
    estimates = [
        infer.log_likelihood(pair.model, pair.guide, x, importance_samples=5, chunk_size=rows)
        for rows in (3, 35)
    ]
    torch.testing.assert_close(*estimates)


def test_as_many_particles_as_data():
    """Whose plate is the objective's, not the programs'."""
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    x = sequences()[:3]

    def model(x):
        with pyro.plate("all", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x[:, 0])

    def guide(x):
        with pyro.plate("all", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    assert infer.elbo_terms(model, guide, x, estimator=elbo).elbo.shape == (3,)


def test_a_batch_that_is_not_divided_as_the_plate_is():
    x = sequences().mT[:2].clone()
    x.total = T
    with pytest.raises(ValueError, match=r"'sequences': expected the 2 data of a batch, .* got 5"):
        TraceELBO()(around_sequences, around_sequences_guide, x)


class Matrix(nn.Module):
    """``in_a_matrix`` with something to train."""

    def __init__(self, program):
        super().__init__()
        self.shift, self.program = nn.Parameter(torch.zeros(())), program

    def forward(self, x):
        self.program(x - self.shift)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_trainer_takes_them(engine):
    x = sequences()
    trainer = Trainer(Matrix(in_a_matrix), Matrix(in_a_matrix_guide), engine=engine, lr=1e-9)
    trainer.fit(x, epochs=1, batch_size=2, validation=x, progress=False)
    row = trainer.history[0]
    expected = float(evidence(x).mean())
    assert row["elbo"] == pytest.approx(expected, rel=1e-5)
    assert row["validation"]["objective"] == pytest.approx(expected, rel=1e-5)
