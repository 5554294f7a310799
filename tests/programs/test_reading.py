"""What a site contributes is the same for every estimator: masks, factors, subsampled plates."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro import poutine
from torch.distributions import MultivariateNormal

from pyro_vae import Trainer, data, diagnostics, handlers, infer, likelihoods
from pyro_vae.guides import BottomUp
from pyro_vae.infer import AnalyticELBO, ImportanceWeightedELBO, TraceELBO
from pyro_vae.infer.aggregate import draw
from pyro_vae.models import VAE
from pyro_vae.programs.sites import compute_log_probs, kinds

SIGMA = 0.7
W = torch.tensor([[1.2, 0.3], [-0.5, 0.8], [0.1, -1.1], [0.9, 0.9], [-1.3, 0.2], [0.4, 0.7]])
BIAS = torch.linspace(-1, 1, 6)


def loc(z):
    return z @ W.T + BIAS


def whole(x):
    """Rows whose second half counts: those with a one in the last column."""
    return x[:, 6] > 0


def elements(x):
    return (torch.arange(6) < 3) | whole(x)[:, None]


def prior():
    return dist.Normal(torch.zeros(2), 1.0).to_event(1)


def site_masked(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior())
        pyro.sample("a", dist.Normal(loc(z)[..., :3], SIGMA).to_event(1), obs=x[:, :3])
        with poutine.mask(mask=whole(x)):
            pyro.sample("b", dist.Normal(loc(z)[..., 3:], SIGMA).to_event(1), obs=x[:, 3:6])


def distribution_masked(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior())
        p = dist.Normal(loc(z), SIGMA).mask(elements(x)).to_event(1)
        pyro.sample("x", p, obs=x[:, :6])


def in_a_plate(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", prior())
        with pyro.plate("columns", 6, dim=-1), poutine.mask(mask=elements(x)):
            pyro.sample("x", dist.Normal(loc(z).squeeze(-2), SIGMA), obs=x[:, :6])


def two_sites(x):
    """Partial observation, and a mask that is False."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior())
        pyro.sample("a", dist.Normal(loc(z)[..., :3], SIGMA).to_event(1), obs=x[:, :3])
        p = dist.Normal(loc(z)[..., 3:], SIGMA).to_event(1)
        pyro.sample("b", p, obs=x[:, 3:6], obs_mask=whole(x))
        with poutine.mask(mask=False):
            pyro.sample("c", dist.Normal(loc(z), SIGMA).to_event(1), obs=x[:, :6])


def posterior(x, widen):
    present = elements(x).to(x.dtype) / SIGMA**2
    precision = torch.eye(2) + torch.einsum("nd,di,dj->nij", present, W, W)
    mean = torch.linalg.solve(precision, ((x[:, :6] - BIAS) * present) @ W)
    return dist.MultivariateNormal(mean, precision_matrix=precision / widen**2)


def guide(widen=1.0, columns=False, unobserved=False):
    """The exact posterior, wider by ``widen``."""

    def program(x):
        q = posterior(x, widen)
        if columns:
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample(
                    "z", dist.MultivariateNormal(q.loc[:, None], q.covariance_matrix[:, None])
                )
            return
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", q)
            if unobserved:
                with poutine.mask(mask=~whole(x)):
                    p = dist.Normal(loc(z)[..., 3:], SIGMA).to_event(1)
                    pyro.sample("b_unobserved", p)

    return program


def rows(n=40):
    z = torch.randn(n, 2)
    x = loc(z) + SIGMA * torch.randn(n, 6)
    return torch.cat([x, (torch.arange(n) % 2)[:, None].float()], 1)


def evidence(x):
    """log p of what counts in each row."""
    covariance = W @ W.T + SIGMA**2 * torch.eye(6)
    full = MultivariateNormal(BIAS, covariance).log_prob(x[:, :6])
    half = MultivariateNormal(BIAS[:3], covariance[:3, :3]).log_prob(x[:, :3])
    return torch.where(whole(x), full, half)


PROGRAMS = [
    (site_masked, {}),
    (distribution_masked, {}),
    (in_a_plate, {"columns": True}),
    (two_sites, {"unobserved": True}),
]
programs = pytest.mark.parametrize(("model", "options"), PROGRAMS)


@programs
def test_at_the_exact_posterior_all_estimates_are_the_evidence(model, options):
    x, exact = rows(), guide(**options)
    expected = evidence(x)
    for found in (
        infer.log_likelihood(model, exact, x, importance_samples=3),
        infer.importance(model, exact, x, samples=7, chunk_size=11).log_likelihood,
        infer.elbo_terms(model, exact, x).elbo,
        diagnostics.evaluate(model, exact, x, importance_samples=2).importance.log_likelihood,
        infer.compare_guides(model, {"exact": exact}, x)["exact"].importance.log_likelihood,
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for estimator in (TraceELBO(), ImportanceWeightedELBO(3)):
        loss, _ = estimator(model, exact, x)
        torch.testing.assert_close(-loss, expected.sum(), atol=1e-3, rtol=1e-4)


@programs
def test_the_bound_is_below_the_estimate_which_is_the_evidence(model, options):
    x, wide = rows(), guide(widen=1.5, **options)
    found = diagnostics.evaluate(model, wide, x, importance_samples=1000)
    estimate = found.importance
    assert excess((estimate.log_likelihood - evidence(x)) / estimate.standard_error) < 1
    assert found.terms.elbo.mean() < evidence(x).mean() - 0.1


def test_masked_latents_add_nothing_to_the_aggregate_posterior():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior().expand(x.shape[:1]).mask(whole(x)))
            pyro.sample("x", dist.Normal(loc(z), SIGMA).to_event(1), obs=x[:, :6])

    def masked(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=whole(x)):
            pyro.sample("z", posterior(x, 1.0))

    x = rows()
    torch.manual_seed(1)
    found = draw(model, masked, data.Dataset(x), 1000)
    torch.manual_seed(1)
    plain = draw(model, guide(), data.Dataset(x), 1000)
    assert torch.equal(found.z["z"], plain.z["z"])
    seen = whole(x)
    assert (found.log_q["z"][~seen] == 0).all() and (found.log_p["z"][~seen] == 0).all()
    torch.testing.assert_close(found.log_q["z"][seen], plain.log_q["z"][seen])
    kl = diagnostics.collapse(model, masked, x).whole.kl
    assert (kl[~seen] == 0).all() and (kl[seen] != 0).all()


# Factors


def pair(latents=2):
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian(SIGMA), hidden=(5,))
    return vae, BottomUp(vae)


def with_factor(program, amount):
    """A pair's program with a factor for each datum."""

    def run(x):
        program(x)
        with pyro.plate("rows", len(x)):
            pyro.factor("factor", torch.full((len(x),), amount), has_rsample=True)

    return run


@pytest.mark.parametrize("of", ["model", "guide"])
def test_a_factor_counts_alike_everywhere(of):
    """In the model it is part of log p, in the guide of log q."""
    vae, q = pair()
    x, amount = torch.randn(5, 6), 0.37
    if of == "model":
        change, programs = amount, (with_factor(vae, amount), q)
    else:
        change, programs = -amount, (vae, with_factor(q, amount))

    def values(model, guide):
        torch.manual_seed(2)
        found = [
            infer.log_likelihood(model, guide, x, importance_samples=10),
            infer.elbo_terms(model, guide, x).elbo,
        ]
        for estimator in (
            TraceELBO("mean"),
            AnalyticELBO("mean"),
            ImportanceWeightedELBO(4, "mean"),
        ):
            estimator(model, guide, x)
            torch.manual_seed(2)
            loss, terms = estimator(model, guide, x)
            found += [-loss.detach(), terms.elbo]
        return found

    for found, plain in zip(values(*programs), values(vae, q), strict=True):
        torch.testing.assert_close(found, plain + change)


def test_a_factor_of_the_guide_has_a_term_of_its_own():
    vae, q = pair()
    terms = infer.elbo_terms(vae, with_factor(q, 0.37), torch.randn(5, 6))
    assert list(terms.kl) == ["z1", "factor"]
    torch.testing.assert_close(terms.kl["factor"], torch.full((5,), 0.37))


def test_an_aggregate_posterior_with_factors_is_refused():
    vae, q = pair()
    with pytest.raises(ValueError, match="site 'factor': expected a guide whose density is that"):
        diagnostics.collapse(vae, with_factor(q, 0.37), torch.randn(5, 6))


# Plates


def copies(x, dims):
    """Three independent copies of the latent, and of the data."""
    with pyro.plate("data", len(x), dim=dims[0]), pyro.plate("copies", 3, dim=dims[1]):
        z = pyro.sample("z", prior())
        seen = (
            x[:, None, :6].expand(-1, 3, -1) if dims[0] < dims[1] else x[:, :6].expand(3, -1, -1)
        )
        pyro.sample("x", dist.Normal(loc(z), SIGMA).to_event(1), obs=seen)


def copies_guide(x, dims):
    q = posterior(x, 1.0)
    if dims[0] < dims[1]:
        q = dist.MultivariateNormal(q.loc[:, None], q.covariance_matrix[:, None])
    with pyro.plate("data", len(x), dim=dims[0]), pyro.plate("copies", 3, dim=dims[1]):
        pyro.sample("z", q)


@pytest.mark.parametrize("dims", [(-2, -1), (-1, -2)])
def test_plates_beside_that_of_the_data(dims):
    x = rows(8)
    x[:, 6] = 1

    def model(x):
        copies(x, dims)

    def guide(x):
        copies_guide(x, dims)

    expected = 3 * evidence(x)
    torch.testing.assert_close(infer.elbo_terms(model, guide, x).elbo, expected, atol=1e-3, rtol=0)
    loss, _ = ImportanceWeightedELBO(4)(model, guide, x)
    assert float(-loss) == pytest.approx(float(expected.sum()), abs=1e-2)
    found = infer.log_likelihood(model, guide, x, importance_samples=5)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


# Programs that observe nothing


def unobserved(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior())
        pyro.deterministic("x", loc(z), event_dim=1)


@pytest.mark.parametrize(
    "run",
    [
        infer.elbo_terms,
        infer.log_likelihood,
        infer.check_pair,
        diagnostics.evaluate,
        diagnostics.collapse,
        lambda model, guide, x: infer.SVI(model, guide).step(x),
        lambda model, guide, x: Trainer(model, guide).fit(x, epochs=1, progress=False),
    ],
)
def test_a_model_that_observes_nothing_is_refused(run):
    with pytest.raises(ValueError, match="model: it observes nothing: pass obs=x to the data's"):
        run(unobserved, guide(), rows())


def test_a_model_without_latents_is_its_own_bound():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(BIAS, SIGMA).to_event(1), obs=x[:, :6])

    x = rows()
    expected = dist.Normal(BIAS, SIGMA).log_prob(x[:, :6]).sum(-1)

    def guide(x):
        pass

    found = infer.log_likelihood(model, guide, x, importance_samples=3)
    torch.testing.assert_close(found, expected)
    for estimator in (TraceELBO(), AnalyticELBO(), ImportanceWeightedELBO(3)):
        loss, terms = estimator(model, guide, x)
        torch.testing.assert_close(-loss, expected.sum())
        torch.testing.assert_close(terms.elbo, expected)


def test_beta_of_either_form_is_left_out_of_masked_terms():
    x = rows()
    expected = infer.elbo_terms(site_masked, guide(), x).elbo
    scaled = [handlers.scale_latents(p, 0.3) for p in (site_masked, guide())]
    assert torch.equal(infer.elbo_terms(*scaled, x).elbo, expected)


def test_what_the_sites_are_is_told_of_each_trace_and_of_sites_that_come_later():
    trace = poutine.trace(site_masked).get_trace(rows())
    found = kinds(trace)
    assert kinds(trace) is found
    assert (found.latent, found.observed) == (["z"], ["a", "b"])
    marked = poutine.infer_config(site_masked, lambda site: {"is_auxiliary": True})
    assert kinds(poutine.trace(marked).get_trace(rows())).marked == ["z"]
    fewer = trace.copy()
    fewer.remove_node("b")
    assert kinds(fewer).observed == ["a"]
    trace.add_node("u", **trace.nodes["z"])
    assert kinds(trace).latent == ["z", "u"]
    assert found.latent == ["z"]


def test_log_probabilities_are_taken_of_the_sites_that_are_named():
    trace = poutine.trace(site_masked).get_trace(rows())
    compute_log_probs(trace, ["z"])
    assert [name for name, site in trace.nodes.items() if "log_prob" in site] == ["z"]
