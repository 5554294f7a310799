"""Any data and any pair: two steps to finite numbers, or an error of this library."""

import functools
import math
import re
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import pyro_vae
from pyro_vae import Trainer, data, guides, likelihoods
from pyro_vae.models import VAE

PACKAGE = Path(pyro_vae.__file__).parent
# Site or argument, what was expected or happened, and what to do about it
MESSAGE = re.compile(r"(?s)^[^\n]{2,}:? .{10,}")
FIXED = {"deadline": None, "derandomize": True, "database": None}
FIXED["suppress_health_check"] = list(HealthCheck)

SHAPES = st.one_of(
    st.tuples(st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([(1, 1, 1), (3, 1, 1), (1, 8, 8), (1,), (1, 2, 2, 2)]),
)
DTYPES = [torch.float32] * 4 + [torch.uint8, torch.int64, torch.float16, torch.float64, torch.bool]
# What is drawn from [0, 1) becomes this; some data are of one value, or not finite
RANGES = {
    "unit": lambda u: u,
    "binary": lambda u: (u > 0.5).to(u.dtype),
    "grid of 5": lambda u: (4 * u).round() / 4,
    "bytes": lambda u: (255 * u).floor(),
    "normal": lambda u: 6 * u - 3,
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "huge": lambda u: 1e30 * u,
    "tiny": lambda u: 1e-30 * u,
    "NaN": lambda u: u / u.round(),
}
WIDTHS = st.integers(1, 5)
LATENTS = st.one_of(
    st.integers(1, 4), st.tuples(WIDTHS, WIDTHS), st.tuples(WIDTHS, WIDTHS, WIDTHS)
)
HIDDEN = st.one_of(
    st.none(), st.just(()), st.integers(1, 8), st.lists(st.integers(1, 8), min_size=1, max_size=3)
)
LIKELIHOODS = {
    "Bernoulli": likelihoods.Bernoulli,
    "ContinuousBernoulli": likelihoods.ContinuousBernoulli,
    "Categorical": functools.partial(likelihoods.Categorical, levels=5),
    "DiscretizedLogistic": likelihoods.DiscretizedLogistic,
    **{
        f"Gaussian {sigma}": functools.partial(likelihoods.Gaussian, sigma)
        for sigma in (1.0, 1e-6, "learned", "optimal", "per_pixel", "predicted")
    },
}
GUIDES = [guides.BottomUp, guides.Ladder, guides.FullCovariance, guides.Flow, guides.Delta]
LABELS = [None, None, None, "classes", "classes", "negative", "float"]
NORMS = [None, None, nn.BatchNorm1d, nn.LayerNorm]


@st.composite
def cases(draw):
    return {
        "shape": draw(SHAPES),
        "dtype": draw(st.sampled_from(DTYPES)),
        "values": draw(st.sampled_from(sorted(RANGES))),
        "n": draw(st.integers(1, 6)),
        "labels": draw(st.sampled_from(LABELS)),
        "condition": draw(st.sampled_from([0, 0, 0, 3])),
        "binarize": draw(st.sampled_from([None, None, "dynamic"])),
        "latents": draw(LATENTS),
        "hidden": draw(HIDDEN),
        "likelihood": draw(st.sampled_from(sorted(LIKELIHOODS))),
        "guide": draw(st.sampled_from(GUIDES)),
        "norm": draw(st.sampled_from(NORMS)),
        "skip": draw(st.booleans()),
        "beta": draw(st.sampled_from([1.0, 1.0, 0.0, 4.0, 1e6])),
        "elbo": draw(st.sampled_from(["trace", "trace", "analytic"])),
        "lr": draw(st.sampled_from([1e-3, 1e-3, 1.0, 1e30])),
        "fitting": draw(st.booleans()),
        "seed": draw(st.integers(0, 3)),
    }


def train(case):
    """Two batches of what the case says."""
    generator = torch.Generator().manual_seed(case["seed"])
    uniform = torch.rand(case["n"], *case["shape"], generator=generator)
    x = RANGES[case["values"]](uniform)
    likelihood = case["likelihood"]
    if case["fitting"]:
        # Half of the cases have data in the likelihood's range, or most would be refused
        fit = {"Bernoulli": "binary", "Categorical": "grid of 5", "Discretized": "white"}
        kind = next((fit[name] for name in fit if likelihood.startswith(name)), "unit")
        x, case = RANGES[kind](uniform), {**case, "dtype": torch.float32, "binarize": None}
    y = None
    if case["labels"] or case["condition"]:
        y = torch.arange(case["n"]) % 3 - int(case["labels"] == "negative")
        y = y / 2 if case["labels"] == "float" else y
    dataset = data.Dataset(x.to(case["dtype"]), y, binarize=case["binarize"])
    torch.manual_seed(case["seed"])
    model = VAE(
        case["shape"],
        case["latents"],
        likelihood=LIKELIHOODS[likelihood](),
        hidden=case["hidden"],
        norm=case["norm"],
        skip=case["skip"],
        condition=case["condition"],
    )
    guide = case["guide"](model)
    options = {name: case[name] for name in ("beta", "elbo", "lr", "seed")}
    trainer = Trainer(model, guide, **options)
    batch = math.ceil(case["n"] / 2)
    return trainer.fit(dataset, epochs=1, batch_size=batch, progress=False)


def numbers(row):
    """All numbers in a row of the history."""
    for value in row.values():
        if isinstance(value, dict):
            yield from numbers(value)
        elif isinstance(value, float):
            yield value


def check(case):
    """Train, or raise; returns whether it trained."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Encountered NaN")
            trainer = train(case)
    except (ValueError, TypeError, FloatingPointError) as error:
        raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert PACKAGE in raised.parents, f"raised in {raised}: {error}"
        assert MESSAGE.match(str(error)), str(error)
        return False
    assert all(map(math.isfinite, numbers(trainer.history[-1])))
    return True


@settings(max_examples=100, **FIXED)
@given(cases())
def test_any_pair_and_any_data(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=2000, **FIXED)
@given(cases())
def test_two_thousand_pairs_and_data(case):
    check(case)


def test_enough_of_the_cases_train():
    """The control: not all are refused for one reason, and neither do all train."""
    outcomes = []

    @settings(max_examples=40, **FIXED)
    @given(cases())
    def collect(case):
        outcomes.append(check(case))

    collect()
    assert 0.2 < sum(outcomes) / len(outcomes) < 0.9
