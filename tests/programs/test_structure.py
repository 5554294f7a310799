"""The structure of a program: every site as it is, and every dependence, whatever carries it."""

import copy
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.inspect import get_dependencies
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_vae import handlers
from pyro_vae.data import Arguments
from pyro_vae.infer import structure
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE, VQVAE, PixelDecoder
from pyro_vae.networks import MLP

N, D = 6, 3
X = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


def vector(size):
    return dist.Normal(torch.zeros(size), 1.0).to_event(1)


def observe(x, loc, name="x"):
    loc = loc if isinstance(loc, float) else loc.reshape(len(x), -1)[:, :1]
    return pyro.sample(name, dist.Normal(loc, 1.0).expand([len(x), D]).to_event(1), obs=x)


def chain(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", vector(3))
        z1 = pyro.sample("z1", dist.Normal(z2[:, [0, 1, 2, 0]], 1.0).to_event(1))
        observe(x, z1.sum(-1))


def test_it_prints_what_a_person_wants_to_see():
    found = structure(chain, X)
    assert str(found).splitlines()[1:] == [
        '  z2  ~ Normal (3,)  in "data"  <- nothing',
        '  z1  ~ Normal (4,)  in "data"  <- z2',
        '  x   observed (3,)  in "data"  <- z1',
    ]
    assert found.posterior == {"z2": ("z1",), "z1": ("z2", "x")}
    page = found.to_html()
    assert all(text in page for text in ("~ Normal (4,)", "in &quot;data&quot;", "&lt;- z2"))
    assert r"| z1 | \~ Normal (4,) |" in found.to_markdown()


# Models of this library


def told(model, *own):
    """What a run of a model as a stranger's program finds."""
    program = (lambda x, y: model(x, y=y)) if len(own) > 1 else lambda x: model(x)
    return structure(program, own if len(own) > 1 else own[0])


def shapes(found):
    sites = {**found.latents, **found.observed}
    return {s: (v.event_shape, v.plates, v.is_global) for s, v in sites.items()}


@pytest.mark.parametrize("sizes", [2, (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("options", [{}, {"skip": True}, {"condition": 3}])
def test_a_vae_tells_what_a_run_of_it_finds(sizes, options):
    model = VAE((D,), sizes, likelihood=Gaussian(), hidden=(4,), **options)
    own = structure(model)
    run = told(model, X, *([Y] if model.condition else []))
    assert (own.parents, own.arguments, own.plate) == (run.parents, run.arguments, run.plate)
    assert shapes(own) == shapes(run)
    assert list(own.parents) == list(run.parents) == [*own.latents, "x"]
    for site, latent in own.latents.items():
        assert latent.distribution == run.latents[site].distribution == "Normal"
        assert latent.support.check(torch.randn(2, *latent.event_shape)).all()
        assert not latent.discrete
    assert own.observed["x"].argument == "x" and own.observed["x"].whole
    assert own.posterior == run.posterior


def test_models_of_pixels_and_codes_tell_what_a_run_finds():
    images = torch.rand(4, 1, 4, 4).round()
    decoder = PixelDecoder((1, 4, 4), 2, width=4, layers=2)
    pixels = VAE((1, 4, 4), 2, likelihood=Bernoulli(), decoder=decoder)
    codes = VQVAE((1, 4, 4), 8, 2, likelihood=Bernoulli(), channels=(4,), blocks=1)
    for model in (pixels, codes):
        own, run = structure(model), told(model, images)
        assert own.parents == run.parents == {"z1": (), "x": ("z1",)}
        assert shapes(own) == shapes(run)
        assert own.latents["z1"].discrete is run.latents["z1"].discrete is (model is codes)
        value = model.conditionals["z1"]().sample((3,))
        assert own.latents["z1"].support.check(value).all()


def test_handlers_around_a_model_do_not_count_and_data_are_checked():
    model = VAE((D,), (2, 2), likelihood=Gaussian(), hidden=(4,))
    free = handlers.free_bits(model, 1.0)
    scaled = poutine.scale(model, 0.5)
    assert structure(free).parents == structure(scaled).parents == structure(model).parents
    assert structure(model, X).parents == structure(model).parents
    with pytest.raises(ValueError, match=r"site 'x': expected shape \(n, 3\)"):
        structure(model, X[:, :2])


def test_a_subclass_with_a_program_of_its_own_is_run():
    class Other(VAE):
        def forward(self, x=None, *, y=None, size=None):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(0.0, 1.0))
                observe(x, a)

    class Same(VAE):
        pass

    options = {"likelihood": Gaussian(), "hidden": (4,)}
    assert structure(Same((D,), 2, **options)).parents == {"z1": (), "x": ("z1",)}
    other = Other((D,), 2, **options)
    with pytest.raises(TypeError, match="like: expected data for Other"):
        structure(other)
    assert structure(other, X).parents == {"a": (), "x": ("a",)}


# What sites are


def kitchen_sink(x, size):
    shared = pyro.sample("shared", dist.Gamma(2.0, 2.0))
    with pyro.plate("kinds", 4):
        topics = pyro.sample("topics", dist.Dirichlet(torch.ones(size)))
    with pyro.plate("rows", len(x), dim=-2):
        rate = pyro.sample("rate", dist.LogNormal(0.0, shared))
        half = pyro.sample("half", dist.Uniform(0.0, 0.5))
        with pyro.plate("words", 5, dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.ones(4)), infer={"enumerate": "parallel"})
            pyro.deterministic("told", rate * 2)
            w = pyro.sample("w", dist.Normal(rate, half).expand_by([1]).mask(True))
        with pyro.plate("some", 100, subsample_size=2, dim=-1):
            pyro.sample("some_of", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
        with poutine.mask(mask=False):
            pyro.sample("off", dist.Normal(rate, 1.0), obs=torch.zeros(len(x), 1))
        pyro.factor("near", -w.sum(-1, keepdim=True).square())
        observed = dist.Normal(w.mean(-1, keepdim=True) + topics[k].sum(), 1.0)
        pyro.sample("x", observed, obs=x[:, :1])


def test_sites_are_what_they_are():
    found = structure(kitchen_sink, X, arguments={"size": 7})
    assert list(found.latents) == "shared topics rate half k w some_of".split()
    assert list(found.observed) == ["near", "x"]
    assert found.plate == "rows"
    latents = found.latents
    assert [s for s in latents if latents[s].is_global] == ["shared", "topics"]
    assert [s for s in latents if latents[s].discrete] == ["k"]
    assert [s for s in latents if latents[s].enumerated] == ["k"]
    names = "Gamma Dirichlet LogNormal Uniform Categorical Normal MultivariateNormal"
    assert [latent.distribution for latent in latents.values()] == names.split()
    (kinds,), (words,), (some,) = (latents[s].plates for s in ("topics", "w", "some_of"))
    assert (kinds.name, kinds.size, kinds.dim, kinds.total) == ("kinds", 4, -1, None)
    assert (words.name, words.size, words.dim, words.total) == ("words", 5, -1, None)
    assert (some.name, some.size, some.dim, some.total) == ("some", 2, -1, 100)
    assert latents["w"].batch_shape == (5,) and latents["rate"].batch_shape == ()
    assert latents["some_of"].event_shape == (2,) and latents["topics"].event_shape == (7,)
    # Bounds are numbers, so that they serve any number of data
    half = latents["half"].support
    assert isinstance(half.upper_bound, float)
    assert half.check(torch.tensor([0.1, 0.7])).tolist() == [True, False]
    assert latents["topics"].support is not constraints.real
    assert latents["topics"].support.check(torch.full((7,), 1 / 7))
    assert found.observed["near"].is_factor and not found.observed["x"].is_factor
    assert (found.observed["x"].argument, found.observed["x"].whole) == ("x", False)
    assert found.parents == {
        "shared": (),
        "topics": (),
        "rate": ("shared",),
        "half": (),
        "k": (),
        "w": ("half", "rate"),
        "some_of": (),
        "near": ("w",),
        "x": ("w", "k", "topics"),
    }
    assert '"rows", "some" (2 of 100)' in str(found) and "factor" in str(found)


# What carries a dependence


def twice(z: torch.Tensor) -> torch.Tensor:
    return z * 2


with warnings.catch_warnings(action="ignore"):
    scripted = torch.jit.script(twice)


def written(z):
    h = torch.zeros(len(z), 2)
    h[:, 0] = z
    return h[:, 1]


def added(z):
    h = torch.zeros(2, len(z))
    h[1].add_(z)
    return h.flatten()[: len(z)]


def put_out(z):
    h = torch.empty_like(z)
    torch.mul(z, 2, out=h)
    return h


CARRIERS = {
    "sum": lambda z: z + 1,
    "view": lambda z: z.view(-1, 1).expand(-1, 2).T[0],
    "detach": lambda z: z.detach(),
    "compare": lambda z: (z > 0).float(),
    "round": lambda z: z.long().to(z.dtype),
    "index": lambda z: torch.arange(10.0)[z.long() % 10],
    "where": lambda z: torch.where(z > 0, torch.tensor(1.0), torch.tensor(2.0)),
    "stack": lambda z: torch.stack([torch.zeros(len(z)), z])[1],
    "written": written,
    "added": added,
    "out": put_out,
    "script": scripted,
    "sort": lambda z: z.sort().indices.float(),
    "network": nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 1), nn.Flatten(0)),
}
NO_CARRIERS = {
    "zeros_like": torch.zeros_like,
    "new_zeros": lambda z: z.new_zeros(len(z)),
    "ones": lambda z: torch.ones(z.shape),
    "randn_like": torch.randn_like,
    "nothing": lambda z: 0.0,
}


@pytest.mark.parametrize("name", [*CARRIERS, *NO_CARRIERS])
def test_whatever_carries_a_dependence_is_followed(name):
    carried = (CARRIERS | NO_CARRIERS)[name]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            w = pyro.sample("w", dist.Normal(carried(z), 1.0))
            observe(x, w)

    expected = {"z": (), "w": ("z",) if name in CARRIERS else (), "x": ("w",)}
    assert structure(model, X).parents == expected


def test_scales_masks_and_values_of_observations_carry_too():
    def model(x):
        with pyro.plate("data", len(x)):
            a, b, c = (pyro.sample(s, dist.Normal(0.0, 1.0)) for s in "abc")
            with poutine.mask(mask=a > 0), poutine.scale(scale=b.exp()):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0] + c)

    assert structure(model, X).parents["x"] == ("c", "b", "a")


def test_dependences_are_direct():
    found = structure(chain, X)
    assert found.parents["x"] == ("z1",)


def with_plates(x):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(m, 1.0))
        b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
        with pyro.plate("inner", D, dim=-2):
            c = pyro.sample("c", dist.Normal(a, b))
        k = pyro.sample("k", dist.Bernoulli(a.sigmoid()))
        pyro.sample("d", dist.Normal(c.sum(0), 1.0), obs=x[:, 0])
        pyro.sample("e", dist.Normal(k + b, 1.0), obs=x[:, 1])


@pytest.mark.parametrize("model", [chain, with_plates])
def test_pyro_finds_the_same_where_it_follows(model):
    pyros = get_dependencies(model, (X,))
    found = structure(model, X)
    prior = pyros["prior_dependencies"]
    assert {s: {*of} for s, of in found.parents.items()} == {
        s: {*d} - {s} for s, d in prior.items()
    }
    # Pyro's are those of the later sites alone
    later = {(s, d) for s, of in pyros["posterior_dependencies"].items() for d in of if s != d}
    both = later | {(d, s) for s, d in later if d in found.latents}
    assert {(s, d) for s, of in found.posterior.items() for d in of} == both


def test_arguments_are_seen_by_name_and_data_by_the_site_that_observes_them():
    def model(x, covariate, *rest, width, weights):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(covariate, width))
            observe(x, z)
            w = pyro.sample("w", dist.Normal(x[:, 0] * weights, 1.0))
            pyro.sample("v", dist.Normal(w + rest[0], 1.0), obs=x[:, 1])

    columns = {"x": X, "covariate": X[:, 0], "rest": X[:, 1]}
    constants = {"width": 2.0, "weights": torch.tensor(2.0)}
    found = structure(model, tuple(columns.values()), arguments=constants)
    assert found.parents == {
        "z": ("covariate",),
        "x": ("z",),
        "w": ("x",),
        "v": ("w", "data[2]"),
    }
    assert found.arguments == ("covariate", "data[2]")
    assert [(s.argument, s.whole) for s in found.observed.values()] == [("x", True), ("x", False)]


def test_an_argument_of_a_sites_name_is_told_apart():
    def model(x, z):
        with pyro.plate("data", len(x)):
            w = pyro.sample("z", dist.Normal(z, 1.0))
            observe(x, w)

    assert structure(model, (X, X[:, 0])).parents == {"z": ("z (argument)",), "x": ("z",)}


def test_data_that_a_latent_sees_before_they_are_observed_are_an_argument():
    def model(x):
        with pyro.plate("data", len(x)):
            w = pyro.sample("z", dist.Normal(x[:, 0], 1.0))
            observe(x, w)

    assert structure(model, X).parents == {"z": ("x (argument)",), "x": ("z",)}


# Programs and data of all forms


class Program(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP((2,), (4,), (D,))
        self.norm = nn.BatchNorm1d(2, affine=False)

    def model(self, x, y=None):
        pyro.module("net", self.net)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", vector(2))
            pyro.sample("x", dist.Normal(self.net(self.norm(z)), scale).to_event(1), obs=x)

    forward = model


def test_it_leaves_no_trace():
    program = Program()
    store = pyro.get_param_store()
    pyro.param("kept", torch.ones(2))
    state = {k: v.clone() for k, v in program.state_dict().items()}
    before, drawn = dict(store.items()), torch.get_rng_state()
    data = X.clone()
    for model in (program, program.model, chain):
        structure(model, data)
    assert store.keys() == before.keys() and store["kept"] is before["kept"]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(v, state[k]) for k, v in program.state_dict().items())
    assert program.training and program.norm.training
    assert all(p.grad is None and p.requires_grad for p in program.parameters())
    assert torch.equal(data, X)


def test_parameters_that_were_trained_stay():
    program = Program()
    store = pyro.get_param_store()
    program(X)
    store["scale"] = torch.tensor(3.0)
    before = {name: value.clone() for name, value in store.items()}
    structure(program, X)
    assert {*store.keys()} == {*before}
    assert all(torch.equal(store[name], value) for name, value in before.items())


def test_programs_of_any_form_are_read():
    program = Program()
    expected = {"z": (), "x": ("z",)}
    for model in (program, program.model, poutine.scale(program.model, 2.0)):
        assert structure(model, X).parents == expected

    class Bayesian(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](D, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, D]).to_event(2))

        def forward(self, x, y):
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(mean, 1.0))
                pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    found = structure(Bayesian(), (X, X[:, 0]))
    assert found.parents == {"linear.weight": (), "z": ("linear.weight", "x"), "y": ("z",)}
    assert found.latents["linear.weight"].is_global


def test_loops_over_plates_and_time_are_read():
    def model(x):
        z = 0.0
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(D)):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])
            for i in pyro.plate("twice", 2):
                pyro.sample(f"w{i}", dist.Normal(z, 1.0))

    found = structure(model, X)
    assert found.parents["x2"] == ("z2",) and found.parents["z2"] == ("z1",)
    assert found.parents["w0"] == found.parents["w1"] == ("z2",)
    assert found.latents["w0"].plates == ()
    assert {s.argument for s in found.observed.values()} == {"x"}


def test_data_of_any_form_are_taken():
    def model(x, *, labels=None, width=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0 if labels is None else labels * 1.0, width))
            observe(x, z)

    assert structure(model, X).parents == {"z": (), "x": ("z",)}
    assert structure(model, X[:1]).parents == {"z": (), "x": ("z",)}
    assert structure(model, X.repeat(100, 1)).parents == {"z": (), "x": ("z",)}
    seen = {"z": ("labels",), "x": ("z",)}
    own = {"x": X, "labels": Y}
    for like in (own, {k: v.numpy() for k, v in own.items()}, Arguments((X,), {"labels": Y})):
        assert structure(model, like, arguments={"width": 2.0}).parents == seen


def test_programs_that_have_their_data_themselves_are_read():
    def model(width):
        with pyro.plate("rows", N):
            z = pyro.sample("z", dist.Normal(0.0, width))
            with pyro.plate("columns", D):
                pyro.sample("x", dist.Normal(z, 1.0), obs=X.T)

    with pytest.raises(TypeError, match="like: expected data for model"):
        structure(model)
    found = structure(model, arguments={"width": 2.0}, plate="rows")
    assert found.parents == {"z": (), "x": ("z",)} and found.plate == "rows"
    assert found.observed["x"].argument is None and found.observed["x"].batch_shape == (D,)


def test_it_can_be_copied_and_pickled():
    found = structure(kitchen_sink, X, arguments={"size": 7})
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert str(other) == str(found) and other.parents == found.parents
        assert other.latents["half"].support.check(torch.tensor([0.1, 0.7])).tolist() == [1, 0]


def test_the_data_plate_is_told_where_several_could_be_it():
    def model(x):
        with pyro.plate("rows", len(x), dim=-1), pyro.plate("columns", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T[:1].expand(len(x), len(x)))

    with pytest.raises(ValueError, match=r"plates .*'rows', 'columns'.*pass plate="):
        structure(model, X)
    for name, other in (("rows", "columns"), ("columns", "rows")):
        for found in (
            structure(model, X, plate=name),
            structure(model, Arguments((X,), plate=name)),
        ):
            assert found.plate == name and [p.name for p in found.latents["z"].plates] == [other]


# Errors


def test_a_program_without_data_or_with_data_that_do_not_fit_is_refused():
    with pytest.raises(TypeError, match=r"like: expected data for chain.*: pass like=x"):
        structure(chain)
    program = Program()
    with pytest.raises(ValueError, match=r"like: Program does not run on data of shape \(6, 2\)"):
        structure(program, X[:, :2])


def test_a_program_without_a_data_plate_is_refused():
    def model(x):
        z = pyro.sample("z", vector(2))
        pyro.sample("x", dist.Normal(z.sum(), 1.0).expand(x.shape).to_event(2), obs=x)

    def inner(x):
        z = pyro.sample("z", vector(2))
        with pyro.plate("columns", D):
            pyro.sample("x", dist.Normal(z.sum(), 1.0).expand([D]), obs=x[0])

    for program in (model, inner):
        with pytest.raises(ValueError, match="model: expected a plate over the data, 6 in"):
            structure(program, X)


def test_sites_that_depend_on_data_or_latents_are_refused():
    def lengths(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            for t in range(int(x[:, 0].max())):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            observe(x, z)

    def sizes(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", vector(1 + int(x[:, 0].max())))
            observe(x, z.sum(-1))

    def kinds(x):
        with pyro.plate("data", len(x)):
            obs = torch.zeros(len(x)) if x[0, 0] > 1 else None
            z = pyro.sample("z", dist.Normal(0.0, 1.0), obs=obs)
            observe(x, z)

    x = X.clone()
    x[:, 0] = torch.arange(N)
    for model, site in ((lengths, "z0"), (sizes, "z"), (kinds, "z")):
        with pytest.raises(ValueError, match=f"site {site!r}: expected the same sites whatever"):
            structure(model, x)

    calls = iter(range(9))

    def latents(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(float(next(calls)), 0.01))
            if z[0] > 1.5:
                z = pyro.sample("more", dist.Normal(z, 1.0))
            observe(x, z)

    with pytest.raises(ValueError, match=r"'more'.*it not there in one run, latent of event"):
        structure(latents, X)


def test_sites_at_the_wrong_place_are_refused():
    def outside(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            observe(x, z)
        pyro.sample("total", dist.Normal(z.sum(), 1.0))

    with pytest.raises(ValueError, match=r"'total': expected it inside .* sees 'z' of each datum"):
        structure(outside, X)

    def undeclared(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0))
            pyro.sample("x", dist.Normal(z.sum(-1, True), 1.0), obs=x[:, :1])

    with pytest.raises(ValueError, match=r"'z': .* of \[2\] that are of no plate.*\.to_event"):
        structure(undeclared, X)

    def silent(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="model: it observes nothing"):
        structure(silent, X)
