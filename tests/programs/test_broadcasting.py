"""Value, distribution and plates of every site agree, or the site is named."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_vae import infer
from pyro_vae.infer import ImportanceWeightedELBO, TraceELBO, check_pair, elbo_terms, importance


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def seeing(observe, prior=lambda n: dist.Normal(torch.zeros(2), 1.0).to_event(1)):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior(len(x)))
            observe(x, z)

    return model


def once(pair, x):
    """Every way in which traces are first read."""
    svi = infer.SVI(*pair)
    return {
        "check_pair": lambda: check_pair(*pair, x),
        "elbo_terms": lambda: elbo_terms(*pair, x),
        "importance": lambda: importance(*pair, x, samples=5),
        "estimator": lambda: TraceELBO()(*pair, x),
        "weighted": lambda: ImportanceWeightedELBO(5)(*pair, x),
        "svi": lambda: svi.step(x),
    }


# As broadcasting sees it: (n, 1) against (n,) is (n, n), and counts each datum n times
MISMATCHES = {
    "a column against a row": lambda x, z: pyro.sample(
        "y", dist.Normal(z[:, :1], 1.0).to_event(1), obs=x[:, 0]
    ),
    "one number per datum against three": lambda x, z: pyro.sample(
        "y", dist.Normal(z[:, 0], 1.0), obs=x
    ),
    "three numbers against one": lambda x, z: pyro.sample(
        "y", dist.Normal(z[:, :1], 1.0).to_event(1), obs=x
    ),
    "one of three": lambda x, z: pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=x[:, :1]),
    "one datum for all": lambda x, z: pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=x[0]),
    "a row of one": lambda x, z: pyro.sample("y", dist.Normal(z[:, 0], 1.0), obs=x[:1, 0]),
    "labels in a column": lambda x, z: pyro.sample(
        "y", dist.Categorical(logits=z), obs=torch.zeros(len(x), 1, dtype=int)
    ),
}


@pytest.mark.parametrize("way", ["check_pair", "elbo_terms", "importance", "estimator", "svi"])
@pytest.mark.parametrize("name", MISMATCHES)
def test_an_observation_that_would_be_broadcast_is_refused_by_site(name, way):
    def unrelated(x, z):
        pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)
        MISMATCHES[name](x, z)

    pair = Trained(seeing(unrelated)), guide
    with pytest.raises(
        ValueError, match=r"site 'y': expected a value of shape .*, got .*unsqueez"
    ):
        once(pair, torch.randn(4, 3))[way]()


class Trained(torch.nn.Module):
    """A program with a parameter."""

    def __init__(self, program):
        super().__init__()
        self.program_of, self.weight = program, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("weights", len(x)):
            pyro.factor("weight", self.weight.expand(len(x)))
        return self.program_of(x)


def test_under_samples_and_without_pyros_validation():
    pair = Trained(seeing(MISMATCHES["three numbers against one"])), guide
    with pyro.validation_enabled(False):
        for way in ("check_pair", "elbo_terms", "importance", "svi"):
            with pytest.raises(ValueError, match="site 'y': expected a value"):
                once(pair, torch.randn(4, 3))[way]()
    with pytest.raises(ValueError, match="site 'y': expected a value"):
        once(pair, torch.randn(4, 3))["weighted"]()


def test_the_advice_mends_it():
    x = torch.randn(4, 3)
    for observe in (
        lambda x, z: pyro.sample("y", dist.Normal(z[:, :1], 1.0).to_event(1), obs=x[:, :1]),
        lambda x, z: pyro.sample("y", dist.Normal(z[:, :1].squeeze(-1), 1.0), obs=x[:, 0]),
        lambda x, z: pyro.sample("y", dist.Normal(z[:, :1].expand(-1, 3), 1).to_event(1), obs=x),
        lambda x, z: pyro.sample("y", dist.Normal(x, 1).to_event(1), obs=x[0].expand(len(x), -1)),
    ):
        pair = seeing(observe), guide
        terms = elbo_terms(*pair, x)
        assert check_pair(*pair, x).observed == ("y",)
        torch.testing.assert_close(-terms.elbo.sum(), stock(pair, x))


def stock(pair, x):
    with torch.random.fork_rng():
        return Trace_ELBO().differentiable_loss(*pair, x)


def test_a_latent_of_another_shape_than_its_prior():
    """(1,) against (n, 2): the prior counts twice for torch, which does not refuse it."""
    model = seeing(
        lambda x, z: pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x),
        prior=lambda n: dist.Normal(torch.zeros(1), 1.0).to_event(1),
    )
    with pytest.raises(ValueError, match=r"site 'z': .*shape \(4, 1\), .* got \(4, 2\)"):
        elbo_terms(model, guide, torch.randn(4, 3))


@pytest.mark.parametrize("n", [3, 4])
def test_dimensions_that_no_plate_declares(n):
    model = seeing(lambda x, z: pyro.sample("y", dist.Normal(x.T, 1.0), obs=x.T))
    pair = Trained(model), guide
    for name, way in once(pair, torch.randn(n, 3)).items():
        if name != "check_pair":
            with pytest.raises(ValueError, match=r"site 'y': .*to_event|Shape mismatch inside"):
                way()


PROGRAMS = {
    "a scalar for all": lambda x, z: pyro.sample(
        "y", dist.Bernoulli(logits=z[:, 0]), obs=torch.tensor(1.0)
    ),
    "a factor": lambda x, z: pyro.factor("f", -z.square().sum(-1)),
    "a factor for all": lambda x, z: pyro.factor("f", torch.tensor(-0.3)),
    "a deterministic site": lambda x, z: pyro.deterministic("d", z.exp()),
    "labels": lambda x, z: pyro.sample(
        "y", dist.Categorical(logits=z), obs=torch.ones(len(x), dtype=int)
    ),
    "a mask": lambda x, z: pyro.sample("y", dist.Normal(x, 1.0).mask(x > 0).to_event(1), obs=x),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_right_is_left_alone(name):
    def observe(x, z):
        pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)
        PROGRAMS[name](x, z)

    x, pair = torch.randn(4, 3), (seeing(observe), guide)
    check_pair(*pair, x)
    importance(*pair, x, samples=5)
    torch.testing.assert_close(-elbo_terms(*pair, x).elbo.sum(), stock(pair, x))


def test_plates_beside_that_of_the_data():
    """A plate to the left, under which data are the same, one to the right, and a subsample."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]))
            with pyro.plate("columns", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            with pyro.plate("raters", 5, dim=-3):
                pyro.sample("y", dist.Normal(z, 1.0), obs=x[:, :1])
            with pyro.plate("some", 10, subsample_size=2, dim=-1) as chosen:
                pyro.sample("w", dist.Normal(z, 1.0), obs=x[:, :1] + chosen)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x[:, :1], 1.0))

    x = torch.randn(4, 3)
    check_pair(model, guide, x)
    with torch.random.fork_rng():
        loss, _ = TraceELBO()(model, guide, x)
    torch.testing.assert_close(loss, stock((model, guide), x))


def test_enumeration_is_told():
    def enumerated(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            loc = z.unsqueeze(-1).expand(-1, 3)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def its_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(x[:, 0].sigmoid()), infer={"enumerate": "parallel"})

    x = torch.randn(4, 3)
    with pytest.warns(UserWarning, match=r"sites \['z'\] are configured for enumeration"):
        TraceELBO().examine(enumerated, its_guide, x)
    # Nor can a program be enumerated that knows no dimensions to the left of the data's
    with pytest.warns(UserWarning, match="configured for enumeration"):
        found = elbo_terms(enumerated, its_guide, x)
    plain = poutine.infer_config(its_guide, lambda site: {"enumerate": None})
    torch.testing.assert_close(found.elbo, elbo_terms(enumerated, plain, x).elbo)


def test_a_guide_that_observes_the_data_too():
    model = seeing(lambda x, z: pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x))

    def observing(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"guide: .* it observes 'x' as the model does"):
        elbo_terms(model, observing, torch.randn(4, 3))


class TestObservedInPart:
    mask = torch.tensor([True, False, True, True])

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = z @ torch.ones(2, 3)
            pyro.sample(
                "x", dist.Normal(loc, 1.0).to_event(1), obs=x, obs_mask=self.mask[: len(x)]
            )

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))
            with poutine.mask(mask=~self.mask[: len(x)]):
                pyro.sample("x_unobserved", dist.Normal(x, 2.0).to_event(1))

    def test_the_guide_draws_what_is_not_observed(self):
        x, pair = torch.randn(4, 3), (self.model, self.guide)
        summary = check_pair(*pair, x)
        assert list(summary.latents) == ["z", "x_unobserved"]
        with torch.random.fork_rng():
            loss, terms = TraceELBO()(*pair, x)
        torch.testing.assert_close(loss, stock(pair, x))
        torch.testing.assert_close(-terms.elbo.sum(), loss)
        assert (terms.reconstruction != 0).tolist() == self.mask.tolist()

    def test_else_obs_mask_is_named(self):
        for use in (check_pair, elbo_terms):
            with pytest.raises(ValueError, match=r"'x_unobserved' .*obs_mask=.* poutine.mask"):
                use(self.model, guide, torch.randn(4, 3))


def gaussian_hmm(z):
    eye = torch.eye(2)
    noise, start = (dist.MultivariateNormal(torch.zeros(2), eye) for _ in range(2))
    return dist.GaussianHMM(start, eye, noise, eye, noise)


def test_sequences_of_any_duration_are_as_long_as_they_are():
    x = torch.randn(3, 5, 2)
    pair = (
        seeing(lambda x, z: pyro.sample("x", gaussian_hmm(z).expand([len(x)]), obs=x)),
        lambda x: guide(x[:, 0]),
    )
    torch.manual_seed(0)
    expected = Trace_ELBO().loss(*pair, x)
    torch.manual_seed(0)
    assert float(elbo_terms(*pair, x).elbo.sum()) == pytest.approx(-expected)
    wide = (
        seeing(lambda x, z: pyro.sample("x", gaussian_hmm(z).expand([len(x)]), obs=x[..., :1])),
        pair[1],
    )
    with pytest.raises(ValueError, match=r"site 'x': expected a value of shape \(3, 5, 2\)"):
        elbo_terms(*wide, x)
