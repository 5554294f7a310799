import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae.data import Dataset
from pyro_vae.guides import BottomUp
from pyro_vae.handlers import scale_latents
from pyro_vae.infer import AnalyticELBO, TraceELBO, elbo_terms
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.programs.reading import Contributions
from pyro_vae.programs.running import trace_pair
from pyro_vae.programs.sites import kinds


@pytest.fixture
def deep():
    vae = VAE((6,), (4, 3, 2), likelihood=Gaussian(0.7), hidden=(5,))
    return vae, BottomUp(vae)


def bernoulli_model(x):
    p = pyro.param("prior", torch.tensor([0.3, 0.6]))
    weight = pyro.param("weight", torch.tensor([[1.0, -2.0], [0.5, 1.5]]))
    with pyro.plate("data", len(x)):
        z = pyro.sample("code", dist.Bernoulli(p).to_event(1))
        pyro.sample("seen", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)


def bernoulli_guide(x):
    gain = pyro.param("gain", torch.tensor([[0.3, 0.1], [-0.2, 0.4]]))
    with pyro.plate("data", len(x)):
        pyro.sample("code", dist.Bernoulli(logits=x @ gain).to_event(1))


def test_the_bound_is_reconstruction_minus_all_kl(deep):
    terms = elbo_terms(*deep, torch.randn(5, 6))
    assert list(terms.kl) == ["z1", "z2", "z3"]
    expected = terms.reconstruction - terms.kl["z1"] - terms.kl["z2"] - terms.kl["z3"]
    torch.testing.assert_close(terms.elbo, expected)
    assert terms.elbo.shape == (5,)


def test_terms_by_hand_on_the_same_samples(deep):
    vae, guide = deep
    x = torch.randn(5, 6)
    terms = elbo_terms(vae, guide, x)
    z = guide(x)
    below, above = {"z1": x, "z2": z["z1"], "z3": z["z2"]}, {"z1": "z2", "z2": "z3"}
    for site in z:
        q = guide.conditionals[site](below[site])
        p = vae.conditionals[site](*([z[above[site]]] if site in above else []))
        expected = q.log_prob(z[site]) - p.log_prob(z[site])
        torch.testing.assert_close(terms.kl[site], expected.detach())
    expected = dist.Normal(vae.decoder(z["z1"]), 0.7).log_prob(x).sum(-1)
    torch.testing.assert_close(terms.reconstruction, expected.detach())


def test_equals_stock_pyro_under_the_same_seed(deep):
    x = torch.randn(5, 6)
    terms = elbo_terms(*deep, x)
    loss = Trace_ELBO().loss(*deep, x)
    assert loss == pytest.approx(-terms.elbo.sum().item(), rel=1e-6)


def test_many_samples_are_averaged(deep):
    x = torch.randn(5, 6)
    terms = elbo_terms(*deep, x, samples=4)
    singles = [TraceELBO()(*deep, x)[1] for _ in range(4)]
    torch.testing.assert_close(terms.elbo, sum(t.elbo for t in singles) / 4)
    for site, kl in terms.kl.items():
        torch.testing.assert_close(kl, sum(t.kl[site] for t in singles) / 4)
    with pytest.raises(ValueError, match="samples: expected a whole number of at least 1, got 0"):
        elbo_terms(*deep, x, samples=0)


def test_the_bound_of_the_linear_model(linear):
    x, guide = linear.data(4), linear.guide(shift=0.3, widen=1.4)
    q = guide.conditionals["z1"](x)
    kl = linear.kl(q.mean, q.stddev)
    expected = linear.reconstruction(x, q.mean, q.stddev) - kl
    assert (expected < linear.evidence().log_prob(x)).all()
    rows = x.repeat_interleave(5000, 0)
    for estimator in (TraceELBO(), AnalyticELBO()):
        terms = elbo_terms(linear.vae, guide, rows, estimator=estimator)
        draws = terms.elbo.unflatten(0, (4, 5000))
        assert excess((draws.mean(1) - expected) / (draws.std(1) / 5000**0.5)) < 1
    torch.testing.assert_close(terms.kl["z1"], kl.repeat_interleave(5000))


def test_the_bound_is_the_evidence_at_the_exact_posterior(linear):
    x = linear.data(10)
    terms = elbo_terms(linear.vae, linear.guide(), x)
    torch.testing.assert_close(terms.elbo, linear.evidence().log_prob(x), atol=2e-5, rtol=1e-5)


def test_beta_is_left_out(deep):
    vae, guide = deep
    x = torch.randn(5, 6)
    expected = elbo_terms(vae, guide, x)
    terms = elbo_terms(scale_latents(vae, 0.0), scale_latents(guide, 4.0), x)
    assert torch.equal(terms.elbo, expected.elbo)


def test_masks_are_honoured():
    present = torch.tensor([[True, False], [True, True], [False, False]])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            p = dist.Normal(z[:, None].expand(-1, 2), 1.0)
            pyro.sample("x", p.mask(present).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.ones(len(x))))

    x = torch.randn(3, 2)
    terms = elbo_terms(model, guide, x)
    expected = (dist.Normal(1.0, 1.0).log_prob(x) * present).sum(-1)
    torch.testing.assert_close(terms.reconstruction, expected)


def test_a_masked_latent_has_no_kl():
    present = torch.tensor([True, False, True])
    x = torch.randn(3, 2)

    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=present):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=present):
            return pyro.sample("z", dist.Normal(x + 1, 0.5).to_event(1))

    torch.manual_seed(0)
    loss, terms = TraceELBO()(model, guide, x)
    torch.manual_seed(0)
    z = guide(x)
    kl = dist.Normal(x + 1, 0.5).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(terms.kl["z"], kl.sum(-1) * present)
    likelihood = dist.Normal(z, 1.0).log_prob(x).sum(-1) * present
    torch.testing.assert_close(terms.reconstruction, likelihood)
    torch.testing.assert_close(loss, -terms.elbo.sum())
    assert terms.kl["z"][present].abs().min() > 0.01


def test_repr_is_in_mean_nats():
    vae = VAE((2,), 1, likelihood=Gaussian(), hidden=())
    text = repr(elbo_terms(vae, BottomUp(vae), torch.zeros(3, 2)))
    assert text.startswith("ELBOTerms of 3 data, mean nats: elbo -")
    assert "KL(z1)" in text


class TestScoreFunction:
    def test_gradients_equal_stock_pyro_under_the_same_seed(self):
        x = torch.randn(50, 2)
        with torch.random.fork_rng():
            loss, terms = TraceELBO()(bernoulli_model, bernoulli_guide, x)
        store = pyro.get_param_store()
        parameters = [store[name] for name in ("gain", "weight", "prior")]
        got = torch.autograd.grad(loss, parameters)
        expected = Trace_ELBO().differentiable_loss(bernoulli_model, bernoulli_guide, x)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert loss.item() == pytest.approx(-terms.elbo.sum().item(), rel=1e-6)
        for a, b in zip(got, torch.autograd.grad(expected, parameters), strict=True):
            torch.testing.assert_close(a, b)

    def test_the_expected_gradient_is_that_of_the_exact_bound(self):
        x = torch.tensor([[0.7, -1.2]])
        bernoulli_guide(x)
        gain = pyro.get_param_store()["gain"]
        codes = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
        q = dist.Bernoulli(logits=x @ gain).log_prob(codes).sum(-1)
        prior = dist.Bernoulli(torch.tensor([0.3, 0.6])).log_prob(codes).sum(-1)
        weight = torch.tensor([[1.0, -2.0], [0.5, 1.5]])
        joint = prior + dist.Normal(codes @ weight, 1.0).log_prob(x).sum(-1)
        (exact,) = torch.autograd.grad((q.exp() * (q - joint)).sum(), gain)
        draws = []
        for _ in range(100):
            loss, _ = TraceELBO()(bernoulli_model, bernoulli_guide, x.expand(200, 2))
            draws.append(torch.autograd.grad(loss, gain)[0] / 200)
        draws = torch.stack(draws)
        assert excess((draws.mean(0) - exact) / (draws.std(0) / 10), draws=100) < 1

    def test_terms_can_be_measured_without_gradients(self):
        terms = elbo_terms(bernoulli_model, bernoulli_guide, torch.randn(5, 2))
        assert terms.kl["code"].shape == (5,)


class TestReduction:
    @pytest.mark.parametrize("estimator", [TraceELBO, AnalyticELBO])
    def test_mean_is_nats_per_datum(self, linear, estimator):
        x, guide = linear.data(7), linear.guide(shift=1.0)
        with torch.random.fork_rng():
            total, _ = estimator()(linear.vae, guide, x)
        mean, _ = estimator(reduction="mean")(linear.vae, guide, x)
        torch.testing.assert_close(mean, total / 7)

    def test_other_reductions_are_refused(self):
        with pytest.raises(ValueError, match="reduction: expected 'sum' or 'mean', got 'none'"):
            TraceELBO(reduction="none")


class OwnNoise(dist.Normal):
    """A normal whose draws carry their noise with them."""

    def __init__(self, loc, scale, noise):
        self.noise = noise
        super().__init__(loc, scale)

    def expand(self, shape):
        return OwnNoise(*(v.expand(shape) for v in (self.loc, self.scale, self.noise)))

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


@pytest.mark.parametrize("estimator", [TraceELBO(), AnalyticELBO()])
def test_a_datum_does_not_see_its_batch(linear, estimator):
    guide = linear.guide(shift=0.3)

    def steady(x):
        q = guide.conditionals["z1"](x).base_dist
        with pyro.plate("data", len(x)):
            pyro.sample("z1", OwnNoise(q.loc, q.scale, x[:, :2].sin()).to_event(1))

    x = linear.data(8)
    terms = elbo_terms(linear.vae, steady, x, estimator=estimator)
    for rows in ([3], [7, 0], [5, 5, 3, 1]):
        part = elbo_terms(linear.vae, steady, x[rows], estimator=estimator)
        torch.testing.assert_close(part.reconstruction, terms.reconstruction[rows])
        torch.testing.assert_close(part.kl["z1"], terms.kl["z1"][rows])


@pytest.mark.parametrize("estimator", [TraceELBO(), AnalyticELBO()])
def test_no_state_changes(estimator):
    vae = VAE((6,), 2, likelihood=Bernoulli(), hidden=(5,))
    encoder = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    guide = BottomUp(vae, encoder=encoder)
    guide.conditionals["z1"].loc.eval()
    modules = [*vae.modules(), *guide.modules()]
    modes = [m.training for m in modules]
    state = {k: v.clone() for k, v in guide.state_dict().items()}
    random = torch.get_rng_state()
    x = torch.randn(5, 6).sign().relu()
    first = elbo_terms(vae, guide, x, estimator=estimator)
    assert not torch.equal(torch.get_rng_state(), random)  # drawing x moved it
    random = torch.get_rng_state()
    second = elbo_terms(vae, guide, x, estimator=estimator)
    assert torch.equal(first.elbo, second.elbo)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in modules] == modes
    assert all(torch.equal(v, state[k]) for k, v in guide.state_dict().items())
    assert not list(pyro.get_param_store().keys())
    assert not first.elbo.requires_grad
    assert all(p.grad is None for p in guide.parameters())


def test_bad_data_are_refused(deep):
    with pytest.raises(ValueError, match="site 'x': expected shape"):
        elbo_terms(*deep, torch.zeros(5, 7))
    with pytest.raises(ValueError, match="expected finite values, got 1"):
        elbo_terms(*deep, torch.tensor([[float("nan"), 0, 0, 0, 0, 0]]))


@pytest.mark.parametrize("samples", [1, 3])
def test_values_outside_the_support_of_a_program_of_functions_are_refused(samples):
    """Their log-probability is finite: only the checks of the first draw see it."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            # What is observed are not the data as they are, which would be looked at before
            pyro.sample("x", dist.Bernoulli(logits=z), obs=1 - x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    elbo_terms(model, guide, torch.tensor([0.0, 1.0]), samples=samples)
    with pytest.raises(ValueError, match="within the support"):
        elbo_terms(model, guide, torch.tensor([0.0, 0.5]), samples=samples)


@pytest.mark.parametrize("estimator", [TraceELBO(), AnalyticELBO()])
def test_a_pair_with_other_latents_is_refused(deep, estimator):
    other = VAE((6,), 4, likelihood=Gaussian())
    x = torch.randn(5, 6)
    with pytest.raises(ValueError, match="latent site 'z3' of the model is missing in the guide"):
        estimator(deep[0], BottomUp(other), x)
    with pytest.raises(ValueError, match="site 'z2' of the guide is no latent site of the model"):
        estimator(other, deep[1], x)


class TestPerDatum:
    @staticmethod
    def pixels(x, outer="data"):
        """Two plates of any sizes, the data along the second dimension from the right."""
        plates = [pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", x.shape[1], dim=-1)]
        with plates[0] if outer == "data" else plates[1]:
            with plates[1] if outer == "data" else plates[0]:
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    @pytest.mark.parametrize("outer", ["data", "pixels"])
    @pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3), (1, 1)])
    def test_sums_over_other_plates_whatever_their_sizes_and_order(self, shape, outer):
        x = torch.randn(shape)
        trace = poutine.trace(self.pixels).get_trace(x, outer)
        got = Contributions(trace, (len(x),))("x")
        torch.testing.assert_close(got, dist.Normal(0.0, 1.0).log_prob(x).sum(-1))

    @pytest.mark.parametrize("k", [2, 5])
    def test_under_a_plate_of_samples_of_any_size(self, k):
        x = torch.randn(5, 3)

        def program():
            with pyro.plate("samples", k, dim=-2), pyro.plate("rows", 5, dim=-1):
                return pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

        trace = poutine.trace(program).get_trace()
        got = Contributions(trace, (k, 5))("z")
        torch.testing.assert_close(
            got, dist.Normal(x, 1.0).log_prob(trace.nodes["z"]["value"]).sum(-1)
        )

    def test_a_site_outside_the_data_plate_is_named(self):
        def program():
            pyro.sample("scale", dist.Normal(0.0, 1.0))

        trace = poutine.trace(program).get_trace()
        with pytest.raises(ValueError, match=r"site 'scale': expected log-probabilities of shape"):
            Contributions(trace, (5,))


def test_the_model_is_replayed_against_the_guide(deep):
    x = torch.randn(5, 6)
    model_trace, guide_trace = trace_pair(*deep, x)
    assert kinds(model_trace).latent == ["z3", "z2", "z1"]
    assert kinds(guide_trace).latent == ["z1", "z2", "z3"]
    assert kinds(model_trace).observed == ["x"]
    for site in ("z1", "z2", "z3"):
        assert model_trace.nodes[site]["value"] is guide_trace.nodes[site]["value"]


@pytest.mark.parametrize("y", [[2, 0, 1, 1], np.array([2, 0, 1, 1])], ids=type)
def test_labels_in_other_forms(y):
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,), condition=3)
    guide, x = BottomUp(vae), torch.randn(4, 6)
    expected = elbo_terms(vae, guide, x, y=torch.tensor([2, 0, 1, 1])).elbo
    assert torch.equal(elbo_terms(vae, guide, x, y=y).elbo, expected)
    one, each = (elbo_terms(vae, guide, x, y=label).elbo for label in (2, torch.full((4,), 2)))
    assert torch.equal(one, each)


def test_labels_of_a_pair_without_condition_are_ignored():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))
    guide, x = BottomUp(vae), torch.randn(4, 6)
    found = elbo_terms(vae, guide, x, y=[2, 0, 1, 1]).elbo
    assert torch.equal(found, elbo_terms(vae, guide, x).elbo)


@pytest.mark.parametrize("x", [Dataset(torch.zeros(3, 6)), np.zeros((3, 6))], ids=type)
def test_data_are_tensors(linear, x):
    vae, guide = linear.vae, linear.guide()
    with pytest.raises(TypeError, match=r"x: expected a tensor \(n, ...\), got .*: pass "):
        elbo_terms(vae, guide, x)
