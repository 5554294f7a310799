"""What holds for every model, guide and likelihood."""

import functools
import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import Trainer, guides, handlers, infer, likelihoods, load
from pyro_vae.models import VAE

SMALL = {"hidden": (8,)}
MODELS = {
    "one layer": ((6,), 3, SMALL),
    "two layers": ((6,), (3, 2), SMALL),
    "skip": ((6,), (3, 2), {**SMALL, "skip": True}),
    "condition": ((6,), 3, {**SMALL, "condition": 3}),
    "linear": ((6,), 3, {"hidden": ()}),
    "normalised": ((6,), (3, 2), {**SMALL, "norm": nn.BatchNorm1d}),
    "image": ((1, 8, 8), 3, {}),
    "odd image": ((7, 5), (3, 2), {}),
}
GUIDES = {
    "BottomUp": (guides.BottomUp, 1.0),
    "Ladder": (guides.Ladder, 1.0),
    "Delta": (guides.Delta, 0.0),
}
LIKELIHOODS = {
    "Bernoulli": (likelihoods.Bernoulli, lambda *shape: torch.randint(2, shape).float()),
    "ContinuousBernoulli": (likelihoods.ContinuousBernoulli, torch.rand),
    "Gaussian": (likelihoods.Gaussian, torch.randn),
    **{
        f"Gaussian {sigma}": (functools.partial(likelihoods.Gaussian, sigma), torch.randn)
        for sigma in ("learned", "optimal", "per_pixel", "predicted")
    },
    "Categorical": (
        lambda: likelihoods.Categorical(levels=4),
        lambda *shape: torch.randint(4, shape) / 3,
    ),
    "DiscretizedLogistic": (
        lambda: likelihoods.DiscretizedLogistic(levels=8),
        lambda *shape: torch.randint(8, shape) / 7,
    ),
}
N = 40
# Every sigma with some models only: it does not meet the guides
FEW = {("skip", "BottomUp"), ("condition", "Ladder"), ("normalised", "BottomUp")}
FEW |= {("one layer", "Delta"), ("odd image", "BottomUp")}
NAMES = [
    " x ".join(names)
    for names in itertools.product(MODELS, GUIDES, LIKELIHOODS)
    if not names[2].startswith("Gaussian ") or names[:2] in FEW
]


def counts(*shape):
    return torch.poisson(4 * torch.rand(shape))


def row(n, d):
    numbers, flags = torch.randn(n, d - 4), torch.randint(2, (n, 1))
    return torch.cat([numbers.exp(), counts(n, 2), flags, torch.randint(3, (n, 1))], 1)


def mixed():
    parts = {
        range(2): likelihoods.LogNormal("learned"),
        (3, 2): likelihoods.NegativeBinomial("per_column"),
        4: likelihoods.Bernoulli(),
        -1: likelihoods.Nominal(3),
    }
    return likelihoods.Mixed(parts)


OF_TABLES = {
    "Poisson": (likelihoods.Poisson, counts),
    "NegativeBinomial": (likelihoods.NegativeBinomial, counts),
    "ZeroInflated": (
        lambda: likelihoods.ZeroInflated(likelihoods.NegativeBinomial("predicted")),
        counts,
    ),
    "Multinomial": (lambda: likelihoods.Multinomial(total=20), counts),
    "Laplace": (lambda: likelihoods.Laplace("per_pixel"), torch.randn),
    "StudentT": (lambda: likelihoods.StudentT("learned", df="learned"), torch.randn),
    "LogNormal": (
        lambda: likelihoods.LogNormal("predicted"),
        lambda *shape: torch.randn(shape).exp(),
    ),
    "Nominal": (
        lambda: likelihoods.Nominal(4),
        lambda *shape: torch.randint(4, shape).float(),
    ),
    "Mixed": (mixed, row),
}
LIKELIHOODS |= OF_TABLES
OF_VECTORS = [("condition", "Ladder"), ("normalised", "BottomUp")]
NAMES += [" x ".join((*names, name)) for names in OF_VECTORS for name in OF_TABLES]
NAMES += [f"odd image x BottomUp x {name}" for name in ("ZeroInflated", "Nominal")]
FACTORS = {
    "one layer": ("p(x, z1) = p(x|z1) p(z1)", "q(z1|x) = q(z1|x)"),
    "two layers": (
        "p(x, z1, z2) = p(x|z1) p(z1|z2) p(z2)",
        "q(z1, z2|x) = q(z1|x) q(z2|z1)",
    ),
    "skip": (
        "p(x, z1, z2) = p(x|z1,z2) p(z1|z2) p(z2)",
        "q(z1, z2|x) = q(z1|x) q(z2|z1,x)",
    ),
    "condition": ("p(x, z1|y) = p(x|z1,y) p(z1)", "q(z1|x,y) = q(z1|x,y)"),
}
FACTORS |= {"linear": FACTORS["one layer"], "image": FACTORS["one layer"]}
FACTORS |= {"odd image": FACTORS["two layers"], "normalised": FACTORS["two layers"]}
TOP_DOWN = {"two layers", "odd image", "normalised", "skip"}


class Case:
    """A pair with its data; the same for the same name, in any process."""

    def __init__(self, name):
        model, guide, likelihood = name.split(" x ")
        event_shape, latents, options = MODELS[model]
        build, self.draw = LIKELIHOODS[likelihood]
        torch.manual_seed(sum(map(ord, name)))
        self.model_name, self.event_shape = model, event_shape
        self.x = self.draw(N, *event_shape)
        self.y = torch.arange(N) % 3 if model == "condition" else None
        self.model = VAE(event_shape, latents, likelihood=build(), **options)
        make, self.beta = GUIDES[guide]
        self.guide = make(self.model)

    @property
    def parameters(self):
        return {
            f"{role}.{name}": p
            for role, program in (("model", self.model), ("guide", self.guide))
            for name, p in program.named_parameters()
        }

    @property
    def idle(self):
        """Parameters without influence: with beta 0 all that only a prior or z2 depends on."""
        if self.beta or len(self.model.latents) == 1:
            return set()
        prefixes = ("model.conditionals",)
        if not self.model.skip:
            prefixes += ("guide.conditionals.z2",)
        return {name for name in self.parameters if name.startswith(prefixes)}

    def trainer(self):
        return Trainer(self.model, self.guide, beta=self.beta, lr=1e-2, seed=0)


def digest(model, guide, x, y):
    """The terms of the bound, to the last bit."""
    torch.manual_seed(0)
    terms = infer.elbo_terms(model, guide, x, y=y)
    joined = torch.stack([terms.reconstruction, *(terms.kl[s] for s in sorted(terms.kl))])
    return hashlib.sha256(joined.numpy().tobytes()).hexdigest()


@pytest.fixture
def case(request):
    return Case(request.param)


every = pytest.mark.parametrize("case", NAMES, indirect=True)


@every
def test_gradients_reach_every_parameter_with_influence(case):
    with torch.no_grad():
        # Away from a start at zero, where nothing reaches what lies before it
        for parameter in case.parameters.values():
            parameter.add_(0.01 * torch.randn_like(parameter))
    scaled = [handlers.scale_latents(p, case.beta) for p in (case.model, case.guide)]
    sums = dict.fromkeys(case.parameters, 0.0)
    for _ in range(3):
        case.model.zero_grad()
        case.guide.zero_grad()
        infer.TraceELBO()(*scaled, case.draw(N, *case.event_shape), case.y)[0].backward()
        for name, parameter in case.parameters.items():
            sums[name] += parameter.grad.abs().sum().item()
    assert {name for name, total in sums.items() if total == 0} == case.idle


@every
def test_fit_changes_every_parameter_with_influence_and_the_file_is_the_pair(case, tmp_path):
    before = {name: p.detach().clone() for name, p in case.parameters.items()}
    trainer = case.trainer()
    trainer.fit((case.x, case.y), epochs=2, batch_size=20, progress=False)
    same = {name for name, p in case.parameters.items() if torch.equal(p, before[name])}
    assert same == case.idle
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    expected = digest(case.model, case.guide, case.x, case.y)
    assert digest(again.model, again.guide, case.x, case.y) == expected
    assert repr(again) == repr(trainer)


def twenty_steps(name, engine, training):
    """Losses while beta changes in place, gradients and all tensors after 20 steps."""
    case = Case(name)
    programs, beta = (case.model, case.guide), torch.tensor(case.beta)
    for program in programs:
        program.train(training)
    svi = infer.SVI(*(handlers.scale_latents(p, beta) for p in programs), engine=engine)
    results = []
    torch.manual_seed(1)
    for i in range(20):
        beta.fill_(case.beta * (1 + i) / 20)
        # Once a short batch, as at the end of an epoch
        x, y = case.draw(N, *case.event_shape), case.y
        rows = slice(N // 2 if i == 10 else N)
        results.append(svi.step(x[rows], y=None if y is None else y[rows]))
    results += [p.grad for p in svi.parameters()]
    return results + [t for p in programs for t in (*p.parameters(), *p.buffers())]


@pytest.mark.slow
@every
@pytest.mark.parametrize("training", [True, False])
def test_the_graph_engine_equals_eager_to_the_last_bit(case, training, request):
    name = request.node.callspec.params["case"]
    for eager, graph in zip(
        *(twenty_steps(name, engine, training) for engine in ("eager", "graph")), strict=True
    ):
        assert torch.equal(eager, graph)


@every
def test_the_pair_fits(case):
    summary = infer.check_pair(case.model, case.guide, case.x, y=case.y)
    sizes = {site: (size,) for site, size in case.model.latent_sizes.items()}
    assert summary.latents == sizes and list(summary.latents) == list(case.model.latents)
    assert summary.observed == ("x",)
    top_down = isinstance(case.guide, guides.Ladder)
    assert summary.guide_order == case.model.latents[:: 1 if top_down else -1]


@every
def test_stock_pyro_finds_the_same_bound(case):
    arguments = {} if case.y is None else {"y": case.y}
    case.model.eval()
    case.guide.eval()
    torch.manual_seed(0)
    loss = Trace_ELBO().loss(case.model, case.guide, case.x, **arguments)
    torch.manual_seed(0)
    bound = infer.elbo_terms(case.model, case.guide, case.x, y=case.y).elbo.sum()
    assert loss == pytest.approx(-float(bound), rel=1e-5)


@every
def test_shapes_of_samples_codes_and_reconstructions(case):
    y = None if case.y is None else case.y[:5]
    assert case.model.sample(5, y=y).shape == (5, *case.event_shape)
    assert case.model.sample(5, y=y, mean=True).shape == (5, *case.event_shape)
    case.model.check_data(case.model.sample(5, y=y))
    code = case.guide.encode(case.x[:5], y=y)
    shapes = {site: (5, size) for site, size in case.model.latent_sizes.items()}
    for values in (code.mean, code.sample):
        assert {site: tuple(z.shape) for site, z in values.items()} == shapes
    p_x = case.model.decode(code.mean, y=y)
    assert (p_x.batch_shape, p_x.event_shape) == ((5,), case.event_shape)
    reconstruction = infer.reconstruct(case.model, case.guide, case.x[:5], y=y)
    torch.testing.assert_close(reconstruction, p_x.mean)


@every
def test_print_tells_the_factorisation(case):
    p, q = FACTORS[case.model_name]
    if isinstance(case.guide, guides.Ladder) and case.model_name in TOP_DOWN:
        q = "q(z1, z2|x) = q(z2|x) q(z1|z2,x)"
    assert f"\n  {p}\n" in repr(case.model) and f"\n  {q}\n" in repr(case.guide)
    assert type(case.model.likelihood).__name__ in repr(case.model)


@every
def test_state_goes_into_a_twin(case):
    torch.manual_seed(99)
    twin = VAE(**case.model.arguments)
    twin_guide = type(case.guide)(twin)
    assert digest(twin, twin_guide, case.x, case.y) != digest(
        case.model, case.guide, case.x, case.y
    )
    twin.load_state_dict(case.model.state_dict())
    twin_guide.load_state_dict(case.guide.state_dict())
    assert digest(twin, twin_guide, case.x, case.y) == digest(
        case.model, case.guide, case.x, case.y
    )


FRESH = """
import json, sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
import test_contract as t
print(json.dumps({name: t.from_file(t.Path(sys.argv[1]) / name, name) for name in t.NAMES}))
"""


def from_file(path, name):
    case, trainer = Case(name), load(path)
    return digest(trainer.model, trainer.guide, case.x, case.y)


def test_a_fresh_process_finds_the_same_numbers_in_every_file(tmp_path):
    expected = {}
    for name in NAMES:
        case = Case(name)
        case.trainer().save(tmp_path / name)
        expected[name] = digest(case.model, case.guide, case.x, case.y)
    command = [sys.executable, "-c", FRESH, str(tmp_path), str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == expected
    assert len(set(expected.values())) == len(NAMES)
