"""Objectives of stock Pyro, in a ``Trainer`` and as estimators."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from differentiated import gradients
from pyro import infer as stock
from pyro.contrib.gp.kernels import RBF
from torch import nn

from pyro_vae import Trainer, infer, load, save
from pyro_vae.guides import BottomUp
from pyro_vae.handlers import scale_latents
from pyro_vae.infer.objectives.pyro_elbo import PyroELBO
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.schedules import WarmUp

PARTICLES = {"num_particles": 3, "max_plate_nesting": 1}
DRAWING = {
    "trace": lambda: stock.Trace_ELBO(),
    "particles": lambda: stock.Trace_ELBO(**PARTICLES),
    "vectorised": lambda: stock.Trace_ELBO(**PARTICLES, vectorize_particles=True),
    "graph": lambda: stock.TraceGraph_ELBO(),
    "mean field": lambda: stock.TraceMeanField_ELBO(),
    "enum": lambda: stock.TraceEnum_ELBO(strict_enumeration_warning=False, max_plate_nesting=1),
}
WEIGHTED = {
    "renyi": lambda: stock.RenyiELBO(**PARTICLES),
    "renyi, vectorised": lambda: stock.RenyiELBO(0.5, **PARTICLES, vectorize_particles=True),
    "tail": lambda: stock.TraceTailAdaptive_ELBO(**PARTICLES, vectorize_particles=True),
}
ALL = DRAWING | WEIGHTED


def mmd():
    """It runs the model once more, on latents of its own."""
    kernel = RBF(input_dim=2, lengthscale=torch.tensor(1.0))
    return stock.Trace_MMD(kernel, **PARTICLES)


class Squared(stock.Trace_ELBO):
    """A user's own: it adds a penalty on the guide's latents to the loss."""

    def _differentiable_loss_particle(self, model_trace, guide_trace):
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        penalty = guide_trace.nodes["z1"]["value"].square().sum()
        return loss + penalty.item(), surrogate + penalty


class Mixture(nn.Module):
    """A mixture whose components are summed out: nothing is drawn."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 0.5, 1.0]))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            parallel = {"enumerate": "parallel"}
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3), infer=parallel)
            p = dist.Normal(self.loc[k].unsqueeze(-1) + x.new_zeros(2), 1.0).to_event(1)
            pyro.sample("x", p, obs=x)


class Nothing(nn.Module):
    def forward(self, x):
        pass


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def pair():
    vae = VAE((6,), (3, 2), likelihood=Gaussian(0.7), hidden=(5,))
    return vae, BottomUp(vae)


@pytest.fixture
def flat():
    vae = VAE((6,), 2, likelihood=Gaussian(0.7), hidden=(5,))
    return vae, BottomUp(vae)


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradient_are_the_objects_own(flat, name, beta):
    x, programs = torch.randn(5, 6), [scale_latents(p, beta) for p in flat]
    expected = gradients(lambda: ALL[name]().loss_and_grads(*programs, x), *flat)
    ours = gradients(lambda: PyroELBO(ALL[name]()).backward(*programs, x), *flat)
    mean = gradients(lambda: PyroELBO(ALL[name](), "mean").backward(*programs, x), *flat)
    loss = float(ours[0][0])
    if name != "tail":
        assert loss == pytest.approx(expected[0], abs=1e-10)
        assert float(PyroELBO(ALL[name]())(*programs, x)[0]) != loss
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-10, atol=1e-10)
    assert len(ours[1]) >= 10
    assert float(mean[0][0]) == pytest.approx(loss / 5)
    torch.testing.assert_close(mean[1], {n: g / 5 for n, g in ours[1].items()})


@pytest.mark.parametrize("name", ALL)
def test_terms_are_those_of_the_elbo_at_its_draws_without_beta(flat, name):
    x, programs = torch.randn(5, 6), [scale_latents(p, 0.3) for p in flat]
    # With as many particles, which it draws alike
    plain = DRAWING[name]() if name in DRAWING else stock.Trace_ELBO(**vars_of(WEIGHTED[name]()))
    torch.manual_seed(3)
    expected = -plain.loss(*flat, x)
    torch.manual_seed(3)
    _, terms = PyroELBO(ALL[name]()).backward(*programs, x)
    assert terms.elbo.shape == (5,)
    assert list(terms.kl) == ["z1"]
    assert float(terms.elbo.sum()) == pytest.approx(expected, abs=1e-10)


def vars_of(elbo):
    return {**PARTICLES, "vectorize_particles": elbo.vectorize_particles}


def test_the_terms_of_each_datum_are_its_own(pair):
    x = torch.randn(5, 6)
    torch.manual_seed(3)
    _, expected = infer.TraceELBO()(*pair, x)
    torch.manual_seed(3)
    _, terms = PyroELBO(stock.TraceGraph_ELBO())(*pair, x)
    torch.testing.assert_close(terms, expected)


@pytest.mark.parametrize("name", [*ALL, "own", "mmd"])
def test_a_trainer_takes_it_with_beta_validation_and_another_guide(flat, name):
    elbo = {**ALL, "own": Squared, "mmd": mmd}[name]()
    vae, guide = flat
    x = torch.randn(12, 6)
    trainer = Trainer(vae, guide, elbo=elbo, beta=WarmUp(epochs=2), clip_norm=5.0, seed=0)
    trainer.fit(x, epochs=2, batch_size=5, validation=x, progress=False)
    trainer.swap_guide(BottomUp(vae)).fit(x, epochs=1, validation=x, progress=False)
    for row in trainer.history:
        for part in (row, row["validation"]):
            assert part["elbo"] == pytest.approx(part["reconstruction"] - part["kl"]["z1"])
        assert row["validation"]["elbo_se"] > 0
        assert row.get("particles", 1) == elbo.num_particles
    last = trainer.history[-1]
    if name in DRAWING:
        assert last["objective"] == pytest.approx(last["elbo"], abs=1e-8)
    assert trainer.elbo.elbo is elbo


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training_is_that_of_stock_svi_where_nothing_is_drawn(optimizer):
    """Whole batches, whose order does not matter; the loss is summed over the data."""
    x = torch.randn(20, 2)
    ours, theirs = Mixture(), Mixture()
    trainer = Trainer(ours, Nothing(), elbo=enum(), optimizer=optimizer, lr=1e-2, seed=0)
    trainer.fit(x, epochs=5, batch_size=20, progress=False)
    inner, losses = optimizer(theirs.parameters(), lr=1e-2), []
    for _ in range(5):
        inner.zero_grad()
        loss = enum().differentiable_loss(theirs, Nothing(), x)
        loss.backward()
        inner.step()
        losses.append(-loss.item() / 20)
    assert [row["objective"] for row in trainer.history] == pytest.approx(losses, abs=1e-10)
    torch.testing.assert_close(ours.loc, theirs.loc, rtol=1e-8, atol=1e-10)


def enum(**options):
    return stock.TraceEnum_ELBO(max_plate_nesting=1, **options)


class TestSummedOut:
    def test_the_history_has_the_loss_alone_and_says_so_once(self, capsys):
        x = torch.randn(20, 2)
        trainer = Trainer(Mixture(), Nothing(), elbo=stock.TraceEnum_ELBO(), seed=0)
        for _ in range(2):
            trainer.fit(x, epochs=2, batch_size=7, validation=x, progress=False)
        for row in trainer.history:
            for part in (row, row["validation"]):
                assert part["kl"] == {}
                assert part["elbo"] == part["reconstruction"]
                assert part["elbo"] == pytest.approx(part["objective"])
            assert "elbo_se" not in row["validation"]
        assert capsys.readouterr().out.count("sites ['k'] are summed out") == 1

    def test_the_loss_is_the_exact_evidence(self):
        x, model = torch.randn(9, 2), Mixture()
        p = dist.Normal(model.loc.detach(), 1.0).log_prob(x.unsqueeze(-1)).sum(1)
        evidence = (p - torch.tensor(3.0).log()).logsumexp(-1)
        trainer = Trainer(model, Nothing(), elbo=enum(), lr=1e-12, seed=0)
        trainer.fit(x, epochs=1, progress=False)
        assert trainer.history[0]["elbo"] == pytest.approx(float(evidence.mean()))

    def test_a_mark_is_not_enough_for_those_that_draw(self):
        with pytest.raises(ValueError, match="latent site 'k' of the model is missing"):
            Trainer(Mixture(), Nothing(), elbo=stock.Trace_ELBO()).fit(torch.randn(4, 2), epochs=1)

    def test_a_latent_without_a_mark_is_missing(self, flat):
        trainer = Trainer(flat[0], Nothing(), elbo=stock.TraceEnum_ELBO())
        with pytest.raises(ValueError, match="latent site 'z1' of the model is missing"):
            trainer.fit(torch.randn(4, 6), epochs=1)

    def test_no_datum_has_terms(self):
        with pytest.raises(ValueError, match="sums sites out, so that no datum has terms"):
            infer.elbo_terms(Mixture(), Nothing(), torch.randn(4, 2), estimator=enum())


def test_elbo_terms_by_the_draws_of_an_objective(pair):
    x = torch.randn(5, 6)
    vectorised = stock.Trace_ELBO(num_particles=400, vectorize_particles=True)
    many = infer.elbo_terms(*pair, x, estimator=vectorised)
    expected = infer.elbo_terms(*pair, x, samples=400)
    torch.testing.assert_close(many.elbo, expected.elbo, rtol=0, atol=0.5)
    before = torch.get_rng_state()
    again = infer.elbo_terms(*pair, x, estimator=stock.Trace_ELBO(), samples=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(again, infer.elbo_terms(*pair, x, samples=3))


class TestMeanField:
    def test_a_hierarchy_from_below_is_refused_by_name(self, pair):
        x = torch.randn(5, 6)
        for use in (
            lambda elbo: Trainer(*pair, elbo=elbo).fit(x, epochs=1, progress=False),
            lambda elbo: infer.elbo_terms(*pair, x, estimator=elbo),
        ):
            with pytest.raises(ValueError, match="site 'z1': TraceMeanField_ELBO is wrong here"):
                use(stock.TraceMeanField_ELBO())

    def test_its_terms_are_closed_forms(self, flat):
        x = torch.randn(5, 6)
        kl = infer.elbo_terms(*flat, x, estimator=infer.AnalyticELBO()).kl
        found = infer.elbo_terms(*flat, x, estimator=stock.TraceMeanField_ELBO()).kl
        torch.testing.assert_close(found, kl)


class TestFiles:
    @pytest.mark.parametrize(
        "elbo",
        [
            stock.Trace_ELBO(num_particles=3, vectorize_particles=True),
            stock.RenyiELBO(0.5, num_particles=4, max_plate_nesting=2),
            stock.TraceEnum_ELBO(strict_enumeration_warning=False),
        ],
    )
    def test_pyros_own_are_in_the_file(self, flat, elbo, tmp_path):
        x = torch.randn(8, 6)
        trainer = Trainer(*flat, elbo=elbo, seed=0).fit(x, epochs=1, progress=False)
        save(trainer, tmp_path / "a.pt")
        again = load(tmp_path / "a.pt")
        assert type(again.elbo.elbo) is type(elbo)
        assert again.elbo.arguments == trainer.elbo.arguments
        expected = trainer.fit(x, epochs=1, progress=False).history[-1]["objective"]
        assert again.fit(x, epochs=1, progress=False).history[-1]["objective"] == expected

    def test_others_are_handed_in(self, flat, tmp_path):
        x, path = torch.randn(8, 6), tmp_path / "a.pt"
        trainer = Trainer(*flat, elbo=Squared(), seed=0).fit(x, epochs=1, progress=False)
        with pytest.raises(TypeError, match=r"'elbo'.*: .*got Squared\. .*arguments=False"):
            save(trainer, path)
        save(trainer, path, arguments=False)
        own = dict(zip(("model", "guide"), copy.deepcopy(flat), strict=True))
        with pytest.raises(ValueError, match=r"pass load\(path, elbo=...\)"):
            load(path, **own)
        again = load(path, **own, elbo=Squared())
        expected = trainer.fit(x, epochs=1, progress=False).history[-1]["objective"]
        assert again.fit(x, epochs=1, progress=False).history[-1]["objective"] == expected

    @pytest.mark.parametrize("own", [False, True])
    def test_a_run_goes_on_as_if_it_had_not_been_interrupted(self, flat, own, tmp_path):
        x, elbo = torch.randn(16, 6), Squared if own else stock.Trace_ELBO
        whole = Trainer(*copy.deepcopy(flat), elbo=elbo(), seed=0)
        whole.fit(x, epochs=3, batch_size=4, progress=False)
        part = Trainer(*flat, elbo=elbo(), seed=0)
        part.fit(x, epochs=2, batch_size=4, progress=False, checkpoint=tmp_path)
        given = dict(zip(("model", "guide"), copy.deepcopy(flat), strict=True)) if own else {}
        given |= {"elbo": elbo()} if own else {}
        again = Trainer.resume(tmp_path, **given).fit(x, epochs=3, progress=False)
        for row, expected in zip(again.history, whole.history, strict=True):
            assert row["objective"] == expected["objective"]

    def test_a_file_that_names_no_objective_is_refused(self):
        with pytest.raises(ValueError, match="'SVI', which is no objective of Pyro"):
            PyroELBO.of_file({"elbo": "SVI", "options": {}, "reduction": "sum"})


class TestArguments:
    def test_an_engine_that_cannot_record_it_is_told(self, flat):
        x = torch.randn(8, 6)
        trainer = Trainer(*flat, elbo=stock.Trace_ELBO(), engine="graph")
        with pytest.warns(UserWarning, match="Trace_ELBO runs eagerly.*pass elbo='trace' with"):
            trainer.fit(x, epochs=1, progress=False)
        trainer.engine = None
        trainer.fit(x, epochs=1, progress=False)

    def test_it_may_be_assigned_and_is_reduced_as_the_one_before(self, flat):
        x = torch.randn(8, 6)
        trainer = Trainer(*flat, seed=0).fit(x, epochs=1, progress=False)
        trainer.elbo = stock.Trace_ELBO(num_particles=2)
        assert trainer.elbo.reduction == "mean"
        trainer.fit(x, epochs=1, progress=False)
        trainer.elbo = "trace"
        trainer.fit(x, epochs=1, progress=False)
        assert [row.get("particles") for row in trainer.history] == [None, 2, None]
        assert Trainer(*flat, elbo=stock.Trace_ELBO()).elbo.reduction == "sum"

    @pytest.mark.parametrize(
        ("elbo", "message"),
        [
            (stock.JitTrace_ELBO(), r"elbo: JitTrace_ELBO .*pass elbo=pyro.infer.Trace_ELBO\(\)"),
            (stock.TraceEnum_ELBO, r"got the class TraceEnum_ELBO: pass TraceEnum_ELBO\(...\)"),
            (stock.ReweightedWakeSleep(), r"elbo: .*ReweightedWakeSleep.*infer.SVI"),
        ],
    )
    def test_what_is_refused(self, flat, elbo, message):
        trainer = Trainer(*flat)
        for use in (
            lambda: Trainer(*flat, elbo=elbo),
            lambda: setattr(trainer, "elbo", elbo),
            lambda: infer.elbo_terms(*flat, torch.randn(4, 6), estimator=elbo),
        ):
            with pytest.raises(TypeError, match=message) as error:
                use()
            assert "\n" not in str(error.value)
