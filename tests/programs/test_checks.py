import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import infer
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.handlers import scale_latents
from pyro_vae.infer import check_pair, importance
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.programs.checks import check_data


def model(x, sites=("b", "a"), size=2, observe=True):
    """A user's program; each argument spoils one thing."""
    with pyro.plate("rows", len(x)):
        for site in sites:
            z = pyro.sample(site, dist.Normal(torch.zeros(size), 1.0).to_event(1))
        loc = z.sum(-1, keepdim=True).expand(-1, x.shape[-1])
        if observe:
            pyro.sample("seen", dist.Normal(loc, 1.0).to_event(1), obs=x)


def guide(x, sites=("a", "b"), size=2, loc=0.0):
    with pyro.plate("rows", len(x)):
        for site in sites:
            pyro.sample(site, dist.Normal(torch.full((len(x), size), loc), 1.0).to_event(1))


def with_arguments(program, **kwargs):
    return lambda x: program(x, **kwargs)


@pytest.mark.parametrize("name", ["elbo_terms", "importance", "encode", "reconstruct", "decode"])
def test_a_program_that_takes_more_than_x_says_so(name):
    def lengthy(x, lengths, *, mask, y=None, weight=1.0):
        raise AssertionError("never runs")

    x = torch.randn(5, 3)
    run = {
        "elbo_terms": lambda: infer.elbo_terms(lengthy, lengthy, x),
        "importance": lambda: infer.importance(lengthy, lengthy, x),
        "encode": lambda: infer.encode(lengthy, x),
        "reconstruct": lambda: infer.reconstruct(lengthy, lengthy, x),
        "decode": lambda: infer.decode(lengthy, {"z": x}, x=x),
    }[name]
    message = (
        "^lengthy: the program takes more than x: it needs 'lengths', 'mask' as well: pass "
        r"data=\(x, lengths, mask\) or {'x': x, 'lengths': lengths, 'mask': mask}, or what is "
        "the same for all data by arguments={name: value}$"
    )
    with pytest.raises(TypeError, match=message):
        run()


def test_labels_are_no_missing_argument_where_they_are_given():
    def labelled(x, y, lengths):
        raise AssertionError("never runs")

    x, y = torch.randn(5, 3), torch.zeros(5, dtype=int)
    with pytest.raises(TypeError, match="takes more than x and y: it needs 'lengths' as well"):
        check_pair(labelled, labelled, x, y=y)
    with pytest.raises(TypeError, match="takes more than x: it needs 'y', 'lengths' as well"):
        check_pair(labelled, labelled, x)


@pytest.mark.parametrize("given", [{}, {"weight": None}])
def test_other_type_errors_are_the_programs_own(given):
    def broken(x, weight=1.0):
        return x + object()

    with pytest.raises(TypeError, match="unsupported operand"):
        check_pair(with_arguments(broken, **given), broken, torch.randn(5, 3))


def test_the_summary_of_a_users_pair():
    summary = check_pair(model, guide, torch.randn(5, 3))
    assert summary.latents == {"b": (2,), "a": (2,)}
    assert list(summary.latents) == ["b", "a"]
    assert summary.observed == ("seen",)
    assert summary.guide_order == ("a", "b")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_summary_of_a_library_pair(n):
    vae = VAE((1, 4, 4), (3, 2), likelihood=Bernoulli(), condition=2)
    x, y = torch.ones(n, 1, 4, 4), torch.zeros(n, dtype=int)
    for wrap in (lambda p: p, lambda p: scale_latents(p, 0.5)):
        summary = check_pair(wrap(vae), wrap(BottomUp(vae)), x, y=y)
        assert summary.latents == {"z2": (2,), "z1": (3,)}
        assert (summary.observed, summary.guide_order) == (("x",), ("z1", "z2"))


@pytest.mark.parametrize(
    ("spoilt_model", "spoilt_guide", "message"),
    [
        ({}, {"sites": ("a",)}, r"latent site 'b' of the model is missing in the guide .*\['a'\]"),
        ({"sites": ("a",)}, {}, r"site 'b' of the guide is no latent site of the model .*\['a'\]"),
        ({}, {"size": 3}, r"site 'b': .* shape \(5, 2\) for 5 data, the guide's \(5, 3\)"),
        ({"observe": False}, {}, r"model: it observes nothing: pass obs=x"),
        ({}, {"loc": math.inf}, "site 'a': its log-probability is NaN for a .*Independent"),
    ],
)
def test_a_pair_that_does_not_fit(spoilt_model, spoilt_guide, message):
    pair = with_arguments(model, **spoilt_model), with_arguments(guide, **spoilt_guide)
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=message):
        check_pair(*pair, torch.randn(5, 3))


def test_a_pair_that_fits_is_run_once():
    runs = []

    def counted(program):
        return lambda x: (runs.append(program), program(x))

    check_pair(counted(model), counted(guide), torch.randn(5, 3))
    assert runs == [guide, model]


def test_latents_that_a_model_would_broadcast():
    """One number per datum in the model, one number for all in the guide."""

    def observing(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("seen", dist.Normal(z.expand(len(x)), 1.0), obs=x)

    def drawing(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"site 'z': the model's .* \(5,\) for 5 data.* \(\):"):
        check_pair(observing, drawing, torch.randn(5))


def test_all_missing_sites_at_once():
    with pytest.raises(ValueError) as error:
        check_pair(model, with_arguments(guide, sites=("c", "d")), torch.randn(5, 3))
    for text in (
        "latent site 'b' of the model is missing",
        "latent site 'a' of the model is missing",
        "site 'c' of the guide is no latent site",
        "site 'd' of the guide is no latent site",
        "Name the sites alike",
    ):
        assert text in str(error.value)


def test_a_site_outside_the_data_plate():
    def outside(program):
        def run(x):
            shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
            program(x)
            return shared

        return run

    found = check_pair(outside(model), outside(guide), torch.randn(5, 3))
    assert found.outside == ("shared",)


def test_no_site_in_a_data_plate():
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[:, None], 1.0).expand(x.shape).to_event(2), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x[:, 0], 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"site 'z': expected log-prob.*pyro.plate"):
        check_pair(model, guide, torch.randn(5, 3))


@pytest.mark.parametrize("dim", [-1, -2])
def test_undeclared_event_dimensions(dim):
    def careless(x):
        with pyro.plate("rows", len(x), dim=dim):
            pyro.sample("a", dist.Normal(torch.zeros(2, 2), 1.0))

    def observing(x):
        with pyro.plate("rows", len(x), dim=dim):
            z = pyro.sample("a", dist.Normal(torch.zeros(2, 2), 1.0))
            pyro.sample("seen", dist.Normal(z, 1.0), obs=x)

    message = r"site 'a': .* shape \(2,\), one per datum, got \(2, 2\): .* with .to_event"
    with pytest.raises(ValueError, match=message):
        check_pair(observing, careless, torch.randn(2, 2))


def test_a_guide_built_for_another_model():
    one = VAE((6,), 2, likelihood=Gaussian())
    other = VAE((5,), 2, likelihood=Gaussian())
    message = r"guide: it was built for another model, of data \(5"
    for wrap in (lambda p: p, lambda p: scale_latents(p, 0.5)):
        with pytest.raises(ValueError, match=message):
            check_pair(wrap(one), wrap(BottomUp(other)), torch.randn(3, 6))


def test_an_error_of_the_guide_itself_stays_what_it_is(linear):
    broken = linear.guide()
    broken.conditionals["z1"].network = nn.Linear(5, 6)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        check_pair(linear.vae, broken, torch.randn(3, 6))


def test_latents_of_another_size():
    one, other = (VAE((6,), size, likelihood=Gaussian()) for size in (2, 3))
    with pytest.raises(ValueError, match=r"site 'z1': the model's value has shape \(3, 2\)"):
        check_pair(one, BottomUp(other), torch.randn(3, 6))


def test_checking_changes_nothing():
    vae = VAE((6,), 2, likelihood=Gaussian())
    guide = BottomUp(vae, encoder=nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)))
    x = torch.randn(5, 6)
    random = torch.get_rng_state()
    check_pair(vae, guide, x)
    assert torch.equal(torch.get_rng_state(), random)
    assert guide.conditionals["z1"].network[1].num_batches_tracked == 0
    assert guide.training
    assert not list(pyro.get_param_store().keys())


class TestData:
    @pytest.fixture
    def vae(self):
        return VAE((6,), 2, likelihood=Bernoulli(), condition=3)

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (torch.ones(0, 6), None, r"x: expected at least one datum, got shape \(0, 6\)"),
            (torch.ones(2, 5), torch.tensor([0, 1]), r"expected shape \(n, 6\) .* got \(2, 5\)"),
            (torch.ones(2, 6), torch.tensor([0]), "y: expected 2 labels, one per datum, got 1"),
            (torch.ones(2, 6), None, "conditional on 3 classes, .* got none: pass y="),
            (torch.ones(2, 6), torch.tensor([0, 3]), "labels from 0 to 2, got 0 to 3"),
            (torch.full((2, 6), 0.5), torch.tensor([0, 1]), "Bernoulli expects only 0 and 1"),
            (torch.full((2, 6), math.nan), torch.tensor([0, 1]), "got 12 NaN or infinite"),
        ],
    )
    def test_what_the_model_cannot_have_produced(self, vae, x, y, message):
        for program in (vae, scale_latents(vae, 0.5)):
            with pytest.raises(ValueError, match=message):
                check_data(program, x, y)

    def test_data_are_tensors_of_the_models_dtype(self, vae):
        x, y = torch.ones(2, 6), torch.tensor([0, 1])
        with pytest.raises(ValueError, match=r"got torch.float64 data .* x.to\(torch.float32\)"):
            check_data(vae, x.double(), y)
        for check in (lambda x: check_data(vae, x), lambda x: check_pair(vae, BottomUp(vae), x)):
            with pytest.raises(TypeError, match=r"got ndarray: pass data.Dataset"):
                check(x.numpy())
        assert check_pair(vae, BottomUp(vae), x, y=[0, 1]).latents == {"z1": (2,)}

    def test_every_datum_is_checked(self, vae):
        x, y = torch.ones(1000, 6), torch.zeros(1000, dtype=int)
        check_data(vae, x, y)
        x[-1, -1] = 0.5
        with pytest.raises(ValueError, match="Bernoulli expects only 0 and 1"):
            check_data(vae, x, y)

    def test_other_programs_get_finite_data(self):
        check_data(model, torch.randn(5, 3))
        with pytest.raises(ValueError, match="expected finite values, got 2 NaN or infinite"):
            check_data(model, torch.tensor([[math.nan, 0.0], [math.inf, 0.0]]))


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: scale_latents(p, 0.0)])
def test_a_guide_that_is_a_point_mass_has_no_importance_weights(wrap):
    vae = VAE((6,), latents=(3, 2), likelihood=Gaussian())
    x = torch.randn(4, 6)
    guide = wrap(Delta(vae))
    assert check_pair(vae, guide, x).point_masses == ("z1", "z2")
    assert check_pair(vae, wrap(BottomUp(vae)), x).point_masses == ()
    with pytest.raises(ValueError, match="site 'z1': the guide is a point mass"):
        importance(vae, guide, x, samples=3)
