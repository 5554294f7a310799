"""Value and gradient of every estimator against stock Pyro on the same random numbers."""

import math

import pyro
import pytest
import stock_programs as programs
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from stock_programs import CASES, Case, D, N

from pyro_vae.infer import AnalyticELBO, ImportanceWeightedELBO, TraceELBO, log_likelihood
from pyro_vae.infer.densities import draws, log_density, repeated
from pyro_vae.programs.running import trace_pair

PARTICLES = 3


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def data():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(5))


def gradients():
    store = pyro.get_param_store()
    parameters = {name: store[name].unconstrained() for name in store}
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    return found


def ours(estimator, case):
    estimator(case.model, case.guide, data())
    gradients()
    torch.manual_seed(3)
    loss, terms = estimator(case.model, case.guide, data())
    loss.backward()
    return float(loss.detach()), gradients(), terms


def stock(estimator, case):
    torch.manual_seed(3)
    loss = estimator.loss_and_grads(case.model, case.guide, data())
    return loss, gradients()


def check(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-10)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-8, atol=1e-8, msg=name)


def each(condition=lambda case: True):
    """Over the programs for which a comparison makes sense."""
    cases = {name: case for name, case in CASES.items() if condition(case)}
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


@each()
def test_trace(case):
    found, expected = ours(TraceELBO(), case), stock(Trace_ELBO(), case)
    check(found, expected)
    assert any(g.abs().max() > 1e-3 for g in expected[1].values())


@each(lambda case: not case.scaled)
def test_terms_of_each_datum(case):
    """Stock Pyro's loss falls by the bound of the datum whose scale rises by one."""

    def loss(weights):
        weights = weights.reshape(N, *(1,) * (-1 - case.data_dim))
        torch.manual_seed(3)
        programs = [poutine.scale(p, scale=weights) for p in (case.model, case.guide)]
        return Trace_ELBO().loss(*programs, data())

    one = torch.ones(N)
    expected = torch.tensor([loss(one) - loss(one + row) for row in torch.eye(N)])
    _, _, terms = ours(TraceELBO(), case)
    torch.testing.assert_close(terms.elbo, expected)


@each(lambda case: case.analytic)
def test_analytic_refuses_by_site(case):
    with pytest.raises(ValueError, match=case.analytic):
        AnalyticELBO()(case.model, case.guide, data())


@each(lambda case: not case.analytic)
def test_analytic(case):
    check(ours(AnalyticELBO(), case), stock(TraceMeanField_ELBO(), case))


@each(lambda case: case.weighted)
def test_importance_weighted_refuses_by_site(case):
    for run in (
        ImportanceWeightedELBO(PARTICLES),
        lambda *pair_x: log_likelihood(*pair_x, importance_samples=3),
    ):
        with pytest.raises(ValueError, match=case.weighted):
            run(case.model, case.guide, data())


@each(lambda case: not (case.weighted or case.bound))
def test_importance_weighted(case):
    estimator = ImportanceWeightedELBO(PARTICLES)
    renyi = RenyiELBO(
        alpha=0, num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=case.nesting
    )
    found, expected = ours(estimator, case), stock(renyi, case)
    if case.score:  # stock Pyro leaves the score function out at alpha 0
        expected = expected[0], {}
    check(found, expected)


@each(lambda case: not (case.scaled or case.weighted or case.bound))
def test_importance_has_the_weights_of_the_bound(case):
    estimator, x = ImportanceWeightedELBO(PARTICLES), data()
    loss, _, _ = ours(estimator, case)
    torch.manual_seed(3)
    vectorised = estimator.vectorised[case.guide]
    with torch.no_grad():
        z, log_q, dims = draws(case.guide, x, None, PARTICLES, vectorised=vectorised)
        rows = {s: v.flatten(0, 1) for s, v in z.items()}
        log_p = log_density(case.model, rows, dims, *repeated(x, None, PARTICLES))
    bound = (log_p.reshape(PARTICLES, N) - log_q).logsumexp(0) - math.log(PARTICLES)
    assert float(bound.sum()) == pytest.approx(-loss, rel=1e-10)


def test_a_subsampled_plate_is_outside_of_the_weights():
    estimator = ImportanceWeightedELBO(PARTICLES)
    part, whole = ours(estimator, CASES["subsampled"]), ours(estimator, CASES["plain"])
    share = programs.POPULATION / N
    check(part, (share * whole[0], {name: share * g for name, g in whole[1].items()}))
    torch.testing.assert_close(part[2].elbo, whole[2].elbo)


def test_plates_that_are_subsampled_otherwise_are_refused():
    for model, guide, message in (
        (
            programs.subsampled,
            programs.plain_guide,
            r"site 'z' of the guide: its data plate counts 1 times, that of .* of the model",
        ),
        (programs.sub_right, programs.sub_right_guide, "site 'z': its data plate is subsampled"),
    ):
        with pytest.raises(ValueError, match=message):
            ImportanceWeightedELBO(PARTICLES)(model, guide, data())


def test_a_plate_around_all_has_one_weight_for_each_datum():
    case, x = CASES["a plate around all"], data()
    loss, found, _ = ours(ImportanceWeightedELBO(PARTICLES), case)
    torch.manual_seed(3)
    x = x.repeat(PARTICLES, 1)
    q = poutine.trace(case.guide).get_trace(x)
    p = poutine.trace(poutine.replay(case.model, trace=q)).get_trace(x)
    for trace in (p, q):
        trace.compute_log_prob()
    log_p = p.nodes["x"]["log_prob"] + p.nodes["z"]["log_prob"]
    log_w = (log_p - q.nodes["z"]["log_prob"]).sum(0).reshape(PARTICLES, N)
    expected = math.log(PARTICLES) * N - log_w.logsumexp(0).sum()
    expected.backward()
    check((loss, found), (float(expected.detach()), gradients()))


@pytest.mark.parametrize("estimator", [TraceELBO(), AnalyticELBO(), ImportanceWeightedELBO(3)])
def test_deterministic_sites_anywhere_change_nothing(estimator):
    odd = Case(programs.deterministic_outside, programs.deterministic_guide)
    found, expected = ours(estimator, odd), ours(estimator, CASES["plain"])
    check(found, expected)
    assert torch.equal(found[2].reconstruction, expected[2].reconstruction)
    assert list(found[2].kl) == ["z"]


@pytest.mark.parametrize("estimator", [TraceELBO(), AnalyticELBO(), ImportanceWeightedELBO(3)])
@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (programs.unobserved, programs.plain_guide, "model: it observes nothing: pass obs=x"),
        (programs.scale_repeated, programs.plain_guide, "site 'x': expected a scale of the shape"),
        (programs.mask_repeated, programs.plain_guide, "site 'x': expected a mask of the shape"),
    ],
)
def test_what_is_no_bound_per_datum_is_refused_by_site(estimator, model, guide, message):
    with pytest.raises(ValueError, match=message):
        estimator(model, guide, data()[:D])


OUTSIDE = [
    (programs.factor_outside, programs.plain_guide, "decay"),
    (programs.plain_model, programs.factor_outside_guide, "decay"),
    (programs.latent_outside, programs.latent_outside_guide, "shared"),
]
outside = pytest.mark.parametrize(("model", "guide", "site"), OUTSIDE)


@outside
@pytest.mark.parametrize(
    ("estimator", "theirs"), [(TraceELBO(), Trace_ELBO()), (AnalyticELBO(), TraceMeanField_ELBO())]
)
def test_what_all_data_share_counts_once(estimator, theirs, model, guide, site):
    case = Case(model, guide)
    found = ours(estimator, case)
    check(found, stock(theirs, case))
    terms = found[2]
    assert float(terms.elbo.sum()) == pytest.approx(-found[0], rel=1e-10)
    assert list(terms.kl_global) == [site] * (site in terms.kl)


@outside
def test_what_all_data_share_is_no_part_of_a_weight(model, guide, site):
    message = f"site '{site}': it is outside the data plate"
    for run in (ImportanceWeightedELBO(3), log_likelihood):
        with pytest.raises(ValueError, match=message):
            run(model, guide, data()[:D])


def test_a_plate_of_the_size_of_the_data_is_told_from_theirs():
    """By its name; or because other sites are in the plate of the data alone."""
    x = data()[:D]
    for model in (programs.left, programs.other_name):
        torch.manual_seed(3)
        _, terms = TraceELBO()(model, programs.plain_guide, x)
        torch.manual_seed(3)
        _, expected = TraceELBO()(programs.plain_model, programs.plain_guide, x)
        torch.testing.assert_close(terms.elbo, expected.elbo)


@pytest.mark.parametrize("estimator", [TraceELBO(), AnalyticELBO()])
def test_two_plates_of_the_size_of_the_data(estimator):
    x = data()[:D]
    with pytest.raises(ValueError, match="'rows', 'columns' are all as large as the data"):
        estimator(*programs.two_plates("rows"), x)
    torch.manual_seed(3)
    _, terms = estimator(*programs.two_plates("data"), x)
    torch.manual_seed(3)
    p, _ = trace_pair(*programs.two_plates("data"), x)
    p.compute_log_prob()
    torch.testing.assert_close(terms.reconstruction, p.nodes["x"]["log_prob"].sum(-1))
