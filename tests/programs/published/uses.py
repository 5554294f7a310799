"""What a published pair has to go through, each against a number that stock Pyro gives."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoGuide
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_vae import Trainer, diagnostics, handlers, infer

from .pair import Pair

Make = Callable[[], Pair]
# Draws of an estimate that is compared with another one, and how many standard errors it may miss
DRAWS, WIDE = 20, 6


def made(make: Make, seed: int = 0) -> Pair:
    """A pair as in a new process."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    return make()


def tensors(*pairs: Pair) -> dict[str, torch.Tensor]:
    """All that is trained: parameters of the modules, and ``pyro.param`` sites of nobody else."""
    found = {
        f"{i}.{j}.{name}": p
        for i, pair in enumerate(pairs)
        for j, part in enumerate(pair.parts)
        for name, p in part.named_parameters()
    }
    store, held = pyro.get_param_store(), {id(p) for p in found.values()}
    sites = {name: store[name].unconstrained() for name in store}
    return found | {name: p for name, p in sorted(sites.items()) if id(p) not in held}


def values(*pairs: Pair) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in tensors(*pairs).items()}


@contextlib.contextmanager
def resting(pair: Pair) -> Iterator[None]:
    """The modules in evaluation mode."""
    modes = [(m, m.training) for part in pair.parts for m in part.modules()]
    for m, _ in modes:
        m.training = False
    yield
    for m, mode in modes:
        m.training = mode


class Scaled(Messenger):
    """Every latent site scaled by beta, as a person writes it with stock Pyro."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, message: dict) -> None:
        if not message["is_observed"]:
            message["scale"] = message["scale"] * self.beta


class Unscaled(Messenger):
    """Without the scales of a program, which an evaluation leaves out."""

    def _pyro_sample(self, message: dict) -> None:
        message["scale"] = 1.0


def stock_loss(elbo: ELBO, pair: Pair, effect: Messenger) -> float:
    """The loss of stock Pyro in evaluation mode, nats of all data."""
    programs = [effect(p) for p in (pair.model, pair.guide)]
    with resting(pair), torch.no_grad(), warnings.catch_warnings(action="ignore"):
        return elbo.loss(*programs, *pair.args, **pair.kwargs)


def stock_draws(pair: Pair, elbo: ELBO | None = None, *, scales: bool = False) -> torch.Tensor:
    """Bounds of stock Pyro, draw by draw, nats of all data."""
    elbo, effect = elbo or pair.elbo(), Messenger() if scales else Unscaled()
    pyro.set_rng_seed(1000)
    losses = [stock_loss(elbo, pair, effect) for _ in range(DRAWS)]
    return -torch.tensor(losses, dtype=torch.float64)


def close(found: float, draws: torch.Tensor, n: int = 1, found_draws: int = 1) -> bool:
    """Whether a mean over so many draws may be one of these draws' mean."""
    error = float(draws.std()) * math.sqrt(1 / found_draws + 1 / len(draws))
    return abs(found * n - float(draws.mean())) <= WIDE * error + 1e-4 * abs(found * n)


def loss_of(pair: Pair):
    """What ``infer.SVI`` and ``Trainer`` are told: their own bound, or Pyro's object."""
    return None if pair.elbo is Trace_ELBO else pair.elbo()


def bound_of(pair: Pair) -> ELBO:
    """Stock Pyro's objective without scales, one that sums out what the pair marks to be."""
    elbo = pair.elbo()
    return elbo if isinstance(elbo, TraceEnum_ELBO) else Trace_ELBO()


def steps(step: Callable[..., float], pair: Pair, count: int = 3) -> list[float]:
    losses = []
    for seed in range(count):
        pyro.set_rng_seed(seed)
        losses.append(float(step(*pair.args, **pair.kwargs)))
    return losses


def stock_trains(make: Make, folder: Path) -> None:
    """The oracle: under stock Pyro alone the bound grows."""
    pair = made(make)
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), pair.elbo())
    losses = steps(svi.step, pair, 60)
    assert sum(losses[-15:]) < sum(losses[:15])


@functools.cache
def stock_losses(make: Make) -> list[float]:
    """Losses of the first steps."""
    pair = warm(made(make))
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), pair.elbo())
    return steps(svi.step, pair)


@functools.cache
def stock_gradient(make: Make) -> dict[str, torch.Tensor]:
    pair = warm(made(make))
    pair.elbo().loss_and_grads(pair.model, pair.guide, *pair.args, **pair.kwargs)
    return {name: p.grad for name, p in tensors(pair).items() if p.grad is not None}


def svi(make: Make, folder: Path, engine: str = "eager") -> None:
    """Losses of the first steps and the first gradient are those of stock Pyro."""
    losses, gradient = stock_losses(make), stock_gradient(make)
    adam = functools.partial(torch.optim.Adam, lr=0.01)
    pair = warm(made(make))
    own = infer.SVI(pair.model, pair.guide, adam, loss_of(pair), engine=engine)
    assert steps(own.step, pair) == pytest.approx(losses, rel=1e-5)
    pair = warm(made(make))
    own = infer.SVI(pair.model, pair.guide, adam, loss_of(pair), engine=engine)
    own.gradient(*pair.args, **pair.kwargs)
    found = {name: p.grad for name, p in tensors(pair).items() if p.grad is not None}
    assert found.keys() == gradient.keys()
    for name, g in gradient.items():
        torch.testing.assert_close(found[name], g, rtol=1e-4, atol=1e-5 * float(g.abs().max()))


def constants(pair: Pair) -> dict:
    return {"arguments": pair.arguments} if pair.arguments else {}


def plate(pair: Pair) -> dict:
    return {} if pair.plate is None else {"plate": pair.plate}


def told(pair: Pair) -> dict:
    """What an evaluation is told beside the data."""
    return constants(pair) | plate(pair)


def fitted(pair: Pair, *, epochs: int = 2, fit: dict | None = None, **options) -> Trainer:
    elbo = {} if loss_of(pair) is None else {"elbo": pair.elbo()}
    options = {"lr": 0.05, "seed": 0, **elbo, **plate(pair), **options}
    return run(Trainer(pair.model, pair.guide, **options), pair, epochs=epochs, **(fit or {}))


def run(trainer: Trainer, pair: Pair, **options) -> Trainer:
    size = {} if pair.n is None else {"batch_size": pair.n // 2 if pair.minibatches else pair.n}
    options = {"progress": False, **constants(pair), **size, **options}
    return trainer.fit(pair.data, **options)


def trains(make: Make, folder: Path) -> None:
    """Some epochs, after which the bound is better, and the one that stock Pyro finds."""
    pair = made(make)
    rows = fitted(pair, epochs=60).history
    half = len(rows) // 2
    objective = rows.column("objective")
    assert sum(objective[-half:]) > sum(objective[:half])
    assert all(map(math.isfinite, objective))
    if loss_of(pair) is None:
        for row in rows:
            bound = row["reconstruction"] - sum(row["kl"].values())
            assert row["elbo"] == pytest.approx(bound, rel=1e-4, abs=1e-4)


def validates(make: Make, folder: Path) -> None:
    """The objective on the validation data is the one that stock Pyro finds."""
    pair = made(make)
    trainer = fitted(pair, fit={"validation": pair.data})
    found = trainer.history[-1]["validation"]
    key = "elbo" if loss_of(pair) is None else "objective"
    with_scales = loss_of(pair) is not None
    assert close(found[key], stock_draws(pair, scales=with_scales), pair.n)


def scaled(make: Make, folder: Path, beta: float = 0.5) -> None:
    """The loss under beta is that of stock Pyro with all latent sites scaled."""
    pair = made(make)
    trainer = fitted(pair, beta=beta)
    pyro.set_rng_seed(7)
    unscaled = stock_loss(pair.elbo(), pair, Unscaled())
    pyro.set_rng_seed(7)
    if loss_of(pair) is None and unscaled == stock_loss(pair.elbo(), pair, Messenger()):
        for row in trainer.history:
            kl = row["elbo"] - row["reconstruction"]
            expected = row["reconstruction"] + beta * kl
            assert row["objective"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    programs = [handlers.scale_latents(p, beta) for p in (pair.model, pair.guide)]
    pyro.set_rng_seed(7)
    found = infer.SVI(*programs, loss=loss_of(pair)).evaluate_loss(*pair.args, **pair.kwargs)
    pyro.set_rng_seed(7)
    assert float(found) == pytest.approx(stock_loss(pair.elbo(), pair, Scaled(beta)), rel=1e-5)


def terms(make: Make, folder: Path) -> None:
    """Terms of the bound at one draw add up to what stock Pyro makes of the same draw."""
    pair = made(make)
    # Parameters begin at their first use
    traces(pair)
    pyro.set_rng_seed(3)
    found = infer.elbo_terms(pair.model, pair.guide, pair.data, **told(pair))
    pyro.set_rng_seed(3)
    expected = stock_loss(bound_of(pair), pair, Unscaled())
    assert float(found.elbo.sum()) == pytest.approx(-expected, rel=1e-5)
    if isinstance(bound_of(pair), TraceEnum_ELBO):
        return
    pyro.set_rng_seed(3)
    with resting(pair), torch.no_grad():
        p, _ = traces(pair)
    observed = [p.nodes[s] for s in p.observation_nodes]
    seen = sum(float(site["log_prob_sum"]) for site in observed)
    assert float(found.reconstruction.sum()) == pytest.approx(seen, rel=1e-4, abs=1e-4)
    shared = sum(float(kl) for kl in found.kl_global.values())
    own = sum(float(kl.sum()) for site, kl in found.kl.items() if site not in found.kl_global)
    assert shared + own == pytest.approx(seen + expected, rel=1e-4, abs=1e-3)


def traces(pair: Pair) -> tuple[poutine.Trace, poutine.Trace]:
    """Of the model, on the draws of the guide, and of the guide, with log-probabilities."""
    model, guide = (Unscaled()(p) for p in (pair.model, pair.guide))
    q = poutine.trace(guide).get_trace(*pair.args, **pair.kwargs)
    p = poutine.trace(poutine.replay(model, q)).get_trace(*pair.args, **pair.kwargs)
    for trace in (p, q):
        trace.compute_log_prob()
    return p, q


def warm(pair: Pair) -> Pair:
    """A guide that is built at its first run, with random numbers of its own, has had that."""
    if isinstance(pair.guide, AutoGuide | EasyGuide):
        pair.guide(*pair.args, **pair.kwargs)
    return pair


def evaluates(make: Make, folder: Path) -> None:
    """The table holds the bound that stock Pyro finds."""
    pair = made(make)
    fitted(pair)
    before = values(pair)
    found = diagnostics.evaluate(
        pair.model, pair.guide, pair.data, importance_samples=0, **told(pair)
    )
    assert all(torch.equal(v, before[name]) for name, v in values(pair).items())
    elbo = found.to_dict()[found.bound]["mean"]
    assert close(elbo, stock_draws(pair, bound_of(pair)), pair.n or len(found.terms.elbo))


def weighs(make: Make, folder: Path) -> None:
    """log p(x) by importance sampling is what a loop over stock traces finds, datum by datum."""
    pair = made(make)
    fitted(pair)
    found = infer.importance(pair.model, pair.guide, pair.data, samples=400, **told(pair))
    own = []
    pyro.set_rng_seed(5)
    with resting(pair), torch.no_grad():
        for _ in range(100):
            p, q = traces(pair)
            # What the model draws by itself, to be summed out, is a draw of its prior
            hidden = {s for s in p.stochastic_nodes if s not in q.nodes}
            own.append(density(p, pair.n, hidden) - density(q, pair.n))
    weights = torch.stack(own).double()
    estimate = weights.logsumexp(0) - math.log(len(own))
    share = (weights - weights.max(0).values).exp()
    error = share.std(0) / share.mean(0) / math.sqrt(len(own))
    spread = (error.square() + found.standard_error.square()).sqrt()
    assert bool(((found.log_likelihood - estimate).abs() <= WIDE * spread + 1e-4).all())


def density(trace: poutine.Trace, n: int, hidden: Collection[str] = ()) -> torch.Tensor:
    """Log-probability of all other sites, (n,), the plate of the data the leftmost."""
    sites = [s for k, s in trace.nodes.items() if s["type"] == "sample" and k not in hidden]
    found = [s["log_prob"] for s in sites if not site_is_subsample(s)]
    return sum(v.reshape(n, -1).sum(-1) for v in found)


def collapses(make: Make, folder: Path) -> None:
    """KL, split into information and the rest, is the KL of the evaluation."""
    pair = made(make)
    fitted(pair)
    found = diagnostics.collapse(pair.model, pair.guide, pair.data, **told(pair))
    many = infer.elbo_terms(pair.model, pair.guide, pair.data, samples=DRAWS, **told(pair))
    kl = sum(many.kl.values()).double()
    whole = found.whole
    torch.testing.assert_close(whole.kl, whole.mutual_information + whole.marginal_kl)
    draws = torch.stack([sum(one.kl.values()) for one in single_draws(pair)]).double().mean(1)
    assert close(float(whole.kl.mean()), draws) and close(float(kl.mean()), draws)
    assert float(whole.mutual_information.mean()) <= found.cap + 1e-6


def single_draws(pair: Pair) -> Iterator[infer.ELBOTerms]:
    """Terms at single draws, also of latents that would be summed out."""
    for seed in range(DRAWS):
        pyro.set_rng_seed(seed)
        options = {"estimator": infer.TraceELBO(), **told(pair)}
        with warnings.catch_warnings(action="ignore"):
            terms = infer.elbo_terms(pair.model, pair.guide, pair.data, **options)
        yield terms


def compares(make: Make, folder: Path) -> None:
    """Guides side by side, each with the bound that stock Pyro finds."""
    pair = made(make)
    trainer = fitted(pair, epochs=1)
    other = second(make, pair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", infer.UntrainedWarning)
        run(trainer.swap_guide(other.guide), pair, epochs=1)
    found = infer.compare_guides(
        pair.model,
        {"one": pair.guide, "other": other.guide},
        pair.data,
        importance_samples=2,
        **told(pair),
    )
    for name, p in (("one", pair), ("other", other)):
        row = found.to_dict()[name]
        bound = row["log p(x, z)" if found[name].point_masses else "ELBO"]["mean"]
        assert close(bound, stock_draws(p, bound_of(p)), pair.n)


def second(make: Make, pair: Pair) -> Pair:
    """The same model with another guide."""
    pyro.set_rng_seed(1)
    other = pair.other
    if other is None and isinstance(pair.guide, AutoGuide):
        # Of another class: Pyro's store takes parameters of one for those of another of its name
        other = functools.partial(AutoDiagonalNormal, pair.guide.model)
    if other is not None:
        guide = other()
        parts = [p for p in (guide,) if isinstance(p, torch.nn.Module)]
    else:
        new = make()
        guide, parts = new.guide, new.parts
    return Pair(
        pair.model,
        guide,
        pair.data,
        pair.arguments,
        pair.plate,
        pair.elbo,
        (*pair.parts, *parts),
        pair.minibatches,
    )


def run_by(program: Callable, pair: Pair) -> dict[str, torch.Tensor]:
    """The tensors that a program's draws and densities depend on."""
    # Another module's, where both are of one name
    store, held = pyro.get_param_store(), {id(p) for part in pair.parts for p in part.parameters()}
    for name in [name for name in store if id(store[name].unconstrained()) in held]:
        del store[name]
    trace = poutine.trace(program).get_trace(*pair.args, **pair.kwargs)
    trace.compute_log_prob()
    sites = [s for s in trace.nodes.values() if s["type"] == "sample"]
    parts = [v for s in sites for v in (s["log_prob"], s["value"]) if v.requires_grad]
    if not parts:
        return {}
    named = {name: p for name, p in tensors(pair).items() if p.requires_grad}
    loss = sum(v.sum() for v in parts)
    found = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
    return {name: p for (name, p), g in zip(named.items(), found, strict=True) if g is not None}


def swaps(make: Make, folder: Path) -> None:
    """Another guide trains with the same model, and the first one goes on where it was."""
    pair = made(make)
    trainer = fitted(pair, epochs=1)
    other = second(make, pair)
    guides = [run_by(pair.guide, pair), run_by(other.guide, other)]
    model = {id(p) for p in run_by(pair.model, pair).values()}
    own = [{id(p): p for p in g.values() if id(p) not in model} for g in guides]
    one, two = ([p for i, p in a.items() if i not in b] for a, b in (own, own[::-1]))
    assert two
    for guide, moving, idle in (
        (other.guide, two, one),
        (pair.guide, one, two),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", infer.UntrainedWarning)
            trainer.swap_guide(guide)
            before = [[p.detach().clone() for p in ps] for ps in (moving, idle)]
            run(trainer, pair, epochs=1)
        same = [[*map(torch.equal, *ps)] for ps in ((moving, before[0]), (idle, before[1]))]
        assert not any(same[0]) and all(same[1])
    assert [row.get("swapped", False) for row in trainer.history] == [False, True, True]


def resumes(make: Make, folder: Path) -> None:
    """A run that was broken off ends, from its checkpoint, bit for bit as one that was not."""
    whole = made(make)
    rows = fitted(whole, epochs=3).history
    expected = values(whole)
    fitted(made(make), epochs=2, fit={"checkpoint": folder, "every": 1})
    pair = warm(made(make))
    own = {} if loss_of(pair) is None else {"elbo": pair.elbo()}
    trainer = Trainer.resume(folder, model=pair.model, guide=pair.guide, **own)
    run(trainer, pair, epochs=3)
    found = values(pair)
    assert found.keys() == expected.keys()
    assert all(torch.equal(v, expected[name]) for name, v in found.items())

    def comparable(history):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in history]

    assert comparable(trainer.history) == comparable(rows)


def draws(make: Make, folder: Path) -> None:
    """All sites as the program itself draws them, once it does not observe."""
    pair = made(make)
    pyro.set_rng_seed(5)
    found = infer.sample(pair.model, pair.data, **constants(pair))
    pyro.set_rng_seed(5)
    with resting(pair), torch.no_grad():
        trace = poutine.trace(poutine.uncondition(pair.model))
        expected = trace.get_trace(*pair.args, **pair.kwargs)
    assert expected.stochastic_nodes
    for site in expected.stochastic_nodes:
        if not site_is_subsample(expected.nodes[site]):
            torch.testing.assert_close(found.pop(site), expected.nodes[site]["value"])
    assert not found


USES: dict[str, Callable[[Make, Path], None]] = {
    "stock SVI": stock_trains,
    "SVI": svi,
    "graph": functools.partial(svi, engine="graph"),
    "Trainer": trains,
    "validation": validates,
    "beta": scaled,
    "elbo_terms": terms,
    "evaluate": evaluates,
    "importance": weighs,
    "collapse": collapses,
    "compare_guides": compares,
    "swap_guide": swaps,
    "checkpoint": resumes,
    "sample": draws,
}
