"""Latents that all data share count once per data set: against closed forms and stock Pyro."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI as StockSVI
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import Trainer, diagnostics, handlers, infer
from pyro_vae.data import Dataset
from pyro_vae.guides import Composed
from pyro_vae.infer import AnalyticELBO, ImportanceWeightedELBO, TraceELBO
from pyro_vae.infer.posterior import posterior_means

N, B, SIGMA, WIDTH = 12, 5, 0.7, 1.5


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def rows():
    return torch.randn(N, 1, generator=torch.Generator().manual_seed(1)) + 2


def part(x, total):
    """What a feed makes: data that are a part of so many."""
    x = x.clone()
    x.total = total
    return x


class Levels(nn.Module):
    """w ~ N(m, WIDTH), z_i ~ N(w, 1), x_i ~ N(z_i, SIGMA); ``of`` makes the data plate."""

    def __init__(self, of=lambda x: pyro.plate("data", len(x)), dim=-1):
        super().__init__()
        self.mean, self.of, self.dim = nn.Parameter(torch.tensor(0.3)), of, dim

    def forward(self, x):
        w = pyro.sample("w", dist.Normal(self.mean, WIDTH))
        with self.of(x) as chosen:
            x = x[:, 0] if len(chosen) == len(x) else x[chosen, 0]
            z = pyro.sample("z", dist.Normal(w, 1.0).expand(x.shape))
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x)


class Posterior(nn.Module):
    """The exact posterior of ``Levels`` for some data, wider by ``widen``."""

    def __init__(self, x, widen=1.0, of=lambda x: pyro.plate("data", len(x))):
        super().__init__()
        precision = 1 / WIDTH**2 + len(x) / (1 + SIGMA**2)
        mean = (0.3 / WIDTH**2 + x.sum() / (1 + SIGMA**2)) / precision
        self.loc, self.of = nn.Parameter(mean.clone()), of
        self.log_scale = nn.Parameter((widen / precision**0.5 * torch.ones(())).log())
        self.gain = nn.Parameter(torch.tensor(1 / (1 + SIGMA**2)))
        self.sd = widen * (SIGMA**2 / (1 + SIGMA**2)) ** 0.5

    def q(self):
        return dist.Normal(self.loc, self.log_scale.exp())

    def forward(self, x):
        w = pyro.sample("w", self.q())
        with self.of(x) as chosen:
            x = x[:, 0] if len(chosen) == len(x) else x[chosen, 0]
            pyro.sample("z", dist.Normal(w + self.gain * (x - w), self.sd))


def pair(widen=1.0, **of):
    return Levels(**of), Posterior(rows(), widen, **of)


def evidence(x):
    covariance = (1 + SIGMA**2) * torch.eye(len(x)) + WIDTH**2
    return dist.MultivariateNormal(torch.full((len(x),), 0.3), covariance).log_prob(x[:, 0])


def gradients(*programs):
    found = [p.grad.clone() for program in programs for p in program.parameters()]
    for program in programs:
        program.zero_grad()
    return found


def ours(estimator, model, guide, x):
    torch.manual_seed(3)
    loss, terms = estimator(model, guide, x)
    loss.backward()
    return loss.detach(), gradients(model, guide), terms


def stock(estimator, model, guide, x):
    torch.manual_seed(3)
    loss = estimator.differentiable_loss(model, guide, x)
    loss.backward()
    return loss.detach(), gradients(model, guide)


def check(found, expected, times=1.0):
    torch.testing.assert_close(found[0], times * expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[1], [times * g for g in expected[1]], rtol=1e-10, atol=1e-10)


def test_at_the_exact_posterior_the_bound_is_the_evidence():
    x, (model, guide) = rows(), pair()
    terms = infer.elbo_terms(model, guide, x)
    torch.testing.assert_close(terms.elbo.sum(), evidence(x))
    assert terms.elbo.shape == (N,)
    assert list(terms.kl) == ["w", "z"]
    assert list(terms.kl_global) == ["w"]


def test_the_kl_is_in_nats_per_data_set():
    x, (model, guide) = rows(), pair(widen=1.3)
    expected = kl_divergence(guide.q(), dist.Normal(0.3, WIDTH)).detach()
    terms = infer.elbo_terms(model, guide, x, estimator=AnalyticELBO())
    torch.testing.assert_close(terms.kl_global["w"], expected)
    torch.testing.assert_close(terms.kl["w"], (expected / N).expand(N))
    assert f"KL(w) {float(expected):.2f} per data set" in repr(terms)
    assert list(infer.elbo_terms(*pair(), x, samples=200).kl_global) == ["w"]


ESTIMATORS = [(TraceELBO(), Trace_ELBO()), (AnalyticELBO(), TraceMeanField_ELBO())]
estimators = pytest.mark.parametrize(("estimator", "theirs"), ESTIMATORS, ids=["trace", "closed"])


@estimators
def test_on_all_data_loss_and_gradient_are_those_of_stock_pyro(estimator, theirs):
    check(ours(estimator, *pair(1.3), rows()), stock(theirs, *pair(1.3), rows()))


@estimators
def test_a_program_that_subsamples_its_plate(estimator, theirs):
    """As stock Pyro counts it; the terms are of the subsample, and those of the whole."""
    programs = pair(1.3, of=lambda x: pyro.plate("data", N, subsample_size=B))
    found = ours(estimator, *programs, rows())
    check(found, stock(theirs, *programs, rows()))
    terms = found[2]
    assert terms.elbo.shape == (B,)
    torch.testing.assert_close(-N * terms.elbo.mean(), found[0])
    mean, _, _ = ours(type(estimator)("mean"), *programs, rows())
    torch.testing.assert_close(mean, found[0] / N)


@estimators
def test_a_batch_of_a_known_whole_is_a_share_of_stock_pyros_subsample(estimator, theirs):
    index = torch.tensor([7, 1, 4, 0, 10])
    programs = pair(1.3, of=lambda x: pyro.plate("data", N, subsample=index))
    expected = stock(theirs, *programs, rows())
    found = ours(estimator, *pair(1.3), part(rows()[index], N))
    check(found, expected, times=B / N)
    torch.testing.assert_close(-N * found[2].elbo.mean(), expected[0])
    mean, _, _ = ours(type(estimator)("mean"), *pair(1.3), part(rows()[index], N))
    torch.testing.assert_close(mean, expected[0] / N)


def test_draws_that_are_not_reparametrised():
    class Scored(Posterior):
        def q(self):
            return super().q().has_rsample_(False)

    index = torch.tensor([7, 1, 4, 0, 10])
    of = {"of": lambda x: pyro.plate("data", N, subsample=index)}
    expected = stock(Trace_ELBO(), Levels(**of), Scored(rows(), 1.3, **of), rows())
    found = ours(TraceELBO(), Levels(), Scored(rows(), 1.3), part(rows()[index], N))
    check(found, expected, times=B / N)


def test_without_a_known_whole_a_batch_is_the_data_set():
    x = rows()[:B]
    check(ours(TraceELBO(), *pair(1.3), x), stock(Trace_ELBO(), *pair(1.3), x))


def test_batches_add_up_to_the_data_set():
    """Exactly, where each step draws the same."""

    class Coefficients(nn.Module):
        def forward(self, x):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("decay", -w.abs().sum())
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(x[:, :2] @ w, 0.5), obs=x[:, 2])

    class Drawn(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor([0.4, -0.1]))

        def forward(self, x):
            pyro.sample("w", dist.Normal(self.loc, 0.3).to_event(1))

    x = torch.randn(N, 3, generator=torch.Generator().manual_seed(2))
    model, guide = Coefficients(), Drawn()
    whole = ours(TraceELBO(), model, guide, x)
    batches = [ours(TraceELBO(), model, guide, part(b, N)) for b in x.split(B)]
    torch.testing.assert_close(sum(loss for loss, _, _ in batches), whole[0])
    torch.testing.assert_close(sum(g[0] for _, g, _ in batches), whole[1][0])
    torch.testing.assert_close(torch.cat([t.elbo for *_, t in batches]), whole[2].elbo)


def test_beta_and_free_bits_are_those_of_any_latent():
    x, (model, guide) = rows(), pair(1.3)
    scaled = [handlers.scale_latents(p, {"w": 0.25, "z": 0.5}) for p in (model, guide)]
    loss, _, terms = ours(AnalyticELBO(), *scaled, part(x[:B], N))
    kl = {s: v.sum() for s, v in terms.kl.items()}
    expected = terms.reconstruction.sum() - 0.25 * kl["w"] - 0.5 * kl["z"]
    torch.testing.assert_close(-loss, expected)


def test_free_bits_are_per_datum():
    halves = pair(1.3, of=lambda x: pyro.plate("data", N, subsample_size=B))
    for (model, guide), x, times in (
        (pair(1.3), part(rows()[:B], N), 1.0),
        (halves, rows(), N / B),
    ):
        free = handlers.free_bits(guide, {"w": 5.0})
        loss, _, terms = ours(AnalyticELBO(), model, free, x)
        charged = terms.reconstruction - terms.kl["z"] - 5.0
        torch.testing.assert_close(-loss, times * charged.sum())


@pytest.mark.parametrize("elbo", ["trace", "analytic"])
def test_a_trainer_counts_them_once(elbo):
    """Epochs without movement, in which w is drawn at its mean."""
    x, (model, guide) = rows(), pair()
    with torch.no_grad():
        guide.log_scale.fill_(-15.0)
        kl = float(kl_divergence(guide.q(), dist.Normal(0.3, WIDTH)))
        given = dist.Normal(guide.loc, (1 + SIGMA**2) ** 0.5).log_prob(x[:, 0])
    trainer = Trainer(model, guide, lr=1e-30, elbo=elbo, seed=0)
    trainer.fit(x, epochs=2, batch_size=B, validation=x[:7], progress=False)
    for row in trainer.history:
        for found, data in ((row, given), (row["validation"], given[:7])):
            w = found["kl_global"]["w"]
            assert found["kl"]["w"] == pytest.approx(w / len(data))
            without = found["reconstruction"] - found["kl"]["z"]
            assert found["elbo"] == pytest.approx(without - w / len(data))
            assert found["objective"] == pytest.approx(found["elbo"])
            if elbo == "analytic":
                assert w == pytest.approx(kl)
            else:
                # log p(x|w) at every draw, and log q - log p of w to half the square of its noise
                assert without == pytest.approx(float(data.mean()), abs=1e-5)
                assert kl - 8 < w < kl + 0.501
    assert "kl_global.w" in str(trainer.history.table())
    legend = trainer.history.plot().axes[1].get_legend()
    assert legend.get_texts()[0].get_text().startswith("w (")


def test_a_run_that_goes_on_counts_them_once(tmp_path):
    """Interrupted in the middle of an epoch."""

    class Interrupt:
        def __init__(self, step=None):
            self.step = step

        def on_step_end(self, trainer, loss):
            if trainer.step == self.step:
                raise KeyboardInterrupt

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    fit = {"epochs": 2, "batch_size": B, "progress": False, "every": 1}
    histories = []
    for step in (None, 4):
        folder = tmp_path / str(step)
        trainer = Trainer(*pair(1.3), lr=1e-3, seed=0)
        trainer.fit(rows(), checkpoint=folder, callbacks=[Interrupt(step)], **fit)
        if step:
            model, guide = pair(1.3)
            trainer = Trainer.resume(folder, model=model, guide=guide)
            trainer.fit(rows(), progress=False, callbacks=[Interrupt()])
        histories.append(trainer.history)
    for one, other in zip(*histories, strict=True):
        assert one["kl_global"] == other["kl_global"]
        assert one["elbo"] == other["elbo"]


def test_the_engines_are_the_same():
    losses = []
    for engine in ("eager", "graph"):
        model, guide = pair(1.3)
        svi = infer.SVI(model, guide, functools.partial(torch.optim.Adam, lr=1e-2), engine=engine)
        torch.manual_seed(2)
        batches = [part(rows()[:B], N), part(rows()[B : 2 * B], N), rows()[:B]]
        losses.append([float(svi.step(batches[i % 3])) for i in range(30)])
    assert losses[0] == losses[1]


def test_evaluation_shows_them():
    x, (model, guide) = rows(), pair()
    result = diagnostics.evaluate(model, guide, x, importance_samples=0, batch_size=B)
    assert result.terms.kl["w"].shape == (N,)
    found = result.to_dict()
    assert found["KL w"]["unit"] == "nats/data set"
    assert found["KL w"]["standard_error"] is None
    assert found["KL z"]["unit"] == "nats/datum"
    assert "nats/data set" in str(result)


@pytest.mark.parametrize(
    "use",
    [
        lambda *of: ImportanceWeightedELBO(3)(*of),
        infer.importance,
        diagnostics.evaluate,
        diagnostics.collapse,
    ],
)
def test_what_weighs_each_datum_refuses_them(use):
    with pytest.raises(
        ValueError, match=r"site 'w': it is outside the data plate, .* importance_sa"
    ):
        use(*pair(), rows())


class Local(nn.Module):
    """q(z|x) of a program that knows nothing of w."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.6))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.gain * x[:, 0], 0.5))


@pytest.mark.parametrize(
    "globals",
    [AutoNormal, functools.partial(AutoNormal, init_scale=0.2), AutoDiagonalNormal],
)
def test_an_autoguide_for_the_globals(globals):
    x, model = rows(), Levels()
    guide = Composed(Local(), globals=globals, like=x[:4], model=model)
    assert guide.latents == ("w", "z")
    assert len(list(guide.parameters())) == 3
    found, expected = ours(TraceELBO(), model, guide, x), stock(Trace_ELBO(), model, guide, x)
    check(found, expected)
    assert list(found[2].kl_global) == ["w"]


def test_it_is_trained_to_the_posterior():
    x, model = rows(), Levels()
    model.mean.requires_grad_(False)
    guide = Composed(Local(), globals=AutoNormal, like=x, model=model)
    trainer = Trainer(model, guide, lr=0.05, seed=0)
    trainer.fit(x, epochs=80, batch_size=6, progress=False)
    trainer.lr = 5e-3
    trainer.fit(x, epochs=40, batch_size=6, progress=False)
    # Mean field: the mean is exact, the variance that of w given z
    loc, scale = guide.globals.locs.w.detach(), guide.globals.scales.w.detach()
    assert float(loc) == pytest.approx(float(Posterior(x).loc.detach()), abs=0.2)
    assert float(scale) == pytest.approx((1 / WIDTH**2 + N) ** -0.5, rel=0.2)
    assert trainer.history[-1]["kl_global"]["w"] > 0


def test_an_autoguide_of_globals_alone_takes_minibatches():
    def observe(x):
        w = pyro.sample("w", dist.Normal(0.0, WIDTH))
        with pyro.plate("levels", 4):
            pyro.sample("v", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, SIGMA), obs=x[:, 0])

    x, guide = rows(), AutoNormal(observe)
    with pytest.raises(ValueError, match=r"run guide\(x\) once before"):
        Trainer(observe, guide)
    guide(x)
    trainer = Trainer(observe, guide, lr=0.05, seed=0)
    trainer.fit(x, epochs=60, batch_size=B, progress=False)
    precision = 1 / WIDTH**2 + N / SIGMA**2
    assert float(guide.locs.w.detach()) == pytest.approx(
        float(x.sum()) / SIGMA**2 / precision, abs=0.1
    )
    assert set(trainer.history[-1]["kl_global"]) == {"w", "v"}


def test_stock_pyro_trains_them():
    x, model = rows(), Levels()
    guide = Composed(Local(), globals=AutoNormal, like=x, model=model)
    before = guide.globals.locs.w.item()
    svi = StockSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(20):
        svi.step(x)
    assert guide.globals.locs.w.item() != before
    assert poutine.trace(guide).get_trace(x).nodes["w"]["value"].shape == ()
    assert math.isfinite(svi.evaluate_loss(x))


class TestPictures:
    def test_encodings(self):
        x, (_, guide) = rows(), pair()
        code = infer.encode(guide, x)
        assert code.mean["w"].shape == ()
        assert code.mean["z"].shape == (N,)
        torch.testing.assert_close(code.mean["w"], guide.loc.detach())

    def test_reconstructions(self):
        x, pairs = rows(), pair()
        expected = infer.encode(pairs[1], x).mean["z"]
        torch.testing.assert_close(infer.reconstruct(*pairs, x), expected)
        assert infer.reconstruct(*pairs, x, sample=True).shape == (N,)

    def test_active_units_are_those_of_each_datum(self):
        x, (_, guide) = rows(), pair()
        found = posterior_means(guide, Dataset(x), batch_size=B)
        assert list(found) == ["z"]
        torch.testing.assert_close(found["z"], infer.encode(guide, x).mean["z"])

    def test_paths_of_one_datum_refuse_them(self):
        x, pairs = rows(), pair()
        for use in (
            lambda: infer.interpolate(*pairs, x[0], x[1]),
            lambda: infer.traverse(*pairs, x[0], site="z"),
        ):
            with pytest.raises(ValueError, match=r"site 'w': .* shared by all data: hold it"):
                use()
