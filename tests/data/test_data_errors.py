"""Errors of data sets and of loading name the argument and the fix."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_vae.data import Dataset, DataSplits, load, render_shapes, shapes


def with_holes() -> Tensor:
    """Data with one NaN and one infinity."""
    x = torch.zeros(5, 2, 3)
    x[3, 1, 2], x[4, 0, 0] = math.nan, math.inf
    return x


X = torch.linspace(0, 1, 8).view(4, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dataset(torch.zeros(0, 3)), ValueError, "at least one datum .* (0, 3)"),
        (lambda: Dataset(torch.zeros(3, 0)), ValueError, "at least one element, got shape (3, 0)"),
        (lambda: Dataset(X)[X[:, 0] > 2], ValueError, "check .* the rows that were selected"),
        (lambda: Dataset(torch.zeros(7)), ValueError, "got (7,): pass x[:, None]"),
        (lambda: Dataset(torch.tensor(1.0)), ValueError, "got (): pass x[:, None]"),
        (lambda: Dataset(with_holes()), ValueError, "got 2 NaN or infinite, .* at x[3, 1, 2]"),
        (lambda: Dataset(X.to(torch.cfloat)), TypeError, "x: .* got Tensor of torch.complex64"),
        (lambda: Dataset([]), TypeError, "got list: there is nothing in it"),
        (lambda: Dataset(np.array([["a"]])), TypeError, "got ndarray of <U1"),
        (lambda: Dataset(np.array([[None]])), TypeError, "got ndarray of object"),
        (lambda: Dataset((X > 0).byte()), ValueError, "no value above 1: pass x > 0"),
        (lambda: Dataset(X, torch.zeros(3)), ValueError, "y: .* (4,), .* got (3,)"),
        (
            lambda: Dataset(X, torch.zeros(4)),
            ValueError,
            "y: .* got torch.float32.* pass y.long()",
        ),
        (lambda: Dataset(X, torch.eye(4)), ValueError, "got (4, 4): .* y.argmax(1)"),
        (
            lambda: Dataset(X, torch.tensor([0, 1.5, math.nan, math.inf])),
            ValueError,
            "got torch.float32 with NaN or infinite values, the first y[2] = nan: drop the rows",
        ),
        (
            lambda: Dataset(X, torch.tensor([0, 1.5, 2, 2.5])),
            ValueError,
            "whole numbers, got 2 other values, the first y[1] = 1.5",
        ),
        (
            lambda: Dataset(X, torch.arange(4), names=("a", "b")),
            ValueError,
            "label 0 to 3, got 2 for 0 to 1",
        ),
        (
            lambda: Dataset(X, -2 * torch.ones(4).long(), names=("a",)),
            ValueError,
            "label -2 to -2, got 1",
        ),
        (lambda: Dataset(X * 3 - 1, binarize="dynamic"), ValueError, "[0, 1] .* x / 255"),
        (lambda: Dataset(X + 1).binarized(torch.Generator()), ValueError, "[0, 1] to binarise"),
        (
            lambda: Dataset(X, binarize="static"),
            ValueError,
            "got 'static': .*binarized(generator)",
        ),
        (
            lambda: Dataset(X, factors=X),
            ValueError,
            "factors: expected shape (4, 0), .* got (4, 2)",
        ),
        (
            lambda: Dataset(X).batches(0),
            ValueError,
            "batch_size: expected a whole number of at least 1, got 0",
        ),
        (lambda: Dataset(X)[torch.zeros(1, 1).long()], ValueError, "index: .* got shape (1, 1)"),
        (
            lambda: DataSplits("a", Dataset(X), Dataset(X[:, :1])),
            ValueError,
            "event shape of train, (2,), got (1,)",
        ),
        (lambda: load([1.0]), ValueError, "x: expected shape (n, *event), .* got (1,)"),
        (lambda: load(None), TypeError, "x: .* got NoneType: make an array of it"),
        (lambda: load("minst"), ValueError, "got 'minst'; did you mean 'mnist'? A folder"),
        (lambda: load("MNIST"), ValueError, "did you mean 'mnist'?"),
        (
            lambda: load("wxyz"),
            ValueError,
            "one of digits, mnist-small, .*, shapes, tones, bouncing, got 'wxyz': A",
        ),
        (lambda: load("no/such/folder"), FileNotFoundError, "got no/such/folder, .* check the"),
        (lambda: load(Path("digits")), FileNotFoundError, "got digits, which is not there"),
        (lambda: load("gone.npy"), FileNotFoundError, "got gone.npy"),
        (
            lambda: load(__file__),
            ValueError,
            "a folder of images or a file .npy, .*test_data_errors.py",
        ),
        (lambda: load(X, binarize=True), ValueError, 'binarize: expected "auto", .* got True'),
        (lambda: load(X, test_fraction=1.0), ValueError, "test_fraction: .* 0 and 1, got 1.0"),
        (lambda: load(X[:1]), ValueError, "at least 2 data to split, got 1"),
        (lambda: load(X + 1, binarize="dynamic"), ValueError, "[0, 1] to binarise"),
        (lambda: load("digits", test_fraction=0.2), ValueError, "for digits, .* own of 360"),
        (lambda: load("digits", size=16), ValueError, "size: expected only .* 16 for digits"),
        (lambda: load(X, grey=True), ValueError, "grey: expected only .* got True for tensor"),
        (
            lambda: load("shapes", size=(8, 8)),
            ValueError,
            "size: .* whole number .* (8, 8)",
        ),
        (lambda: shapes(0), ValueError, "count: expected an int from 1 to 737280, got 0"),
        (lambda: render_shapes(X), ValueError, "(n, 5) with columns shape, .*, y, got (4, 2)"),
        (lambda: render_shapes(torch.full((1, 5), 0.5)), ValueError, "column 0, got [0.5]"),
    ],
)
def test_errors_name_argument_and_fix(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(error, match=pattern) as raised:
        make()
    assert type(raised.value) is error


def test_an_empty_name() -> None:
    with pytest.raises(ValueError, match="source: expected a name or path, got ''"):
        load("")
