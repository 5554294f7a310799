"""The picture of a collapse, from numbers of any origin."""

from types import SimpleNamespace

import numpy as np
import pytest
from drawn import texts

from pyro_vae import plots


def terms(*kl):
    return SimpleNamespace(kl=list(kl), mutual_information=np.array(kl) / 2, marginal_kl=kl)


def test_numbers_of_any_origin_are_drawn():
    numbers = SimpleNamespace(
        sites={"a": terms(1.0, 3.0), "b": terms(0.0, 0.0)},
        whole=terms(1.0, 3.0),
        cap=0.7,
        units={
            "a": SimpleNamespace(variance=[0.1, 0.5, 0.0], threshold=0.2),
            "b": SimpleNamespace(variance=np.array([0.3]), threshold=0.2),
        },
        verdict="b collapsed; try something else",
    )
    bars, units = plots.collapse(numbers).axes
    heights = np.array([bar.get_height() for bar in bars.patches]).reshape(3, 3)
    np.testing.assert_allclose(heights, [[2, 0, 2], [1, 0, 1], [2, 0, 2]])
    (first, *_) = bars.containers
    _, _, (error,) = first
    assert error.get_segments()[0][:, 1] == pytest.approx([1, 3])  # 2 +- 1
    assert texts(bars.get_xticklabels()) == ["a", "b", "all"]
    assert bars.lines[-1].get_ydata()[0] == 0.7
    assert units.lines[0].get_ydata() == pytest.approx([0.5, 0.1, 1e-8])
    assert texts(units.get_legend().get_texts()) == [
        "a: 1 of 3 active",
        "b: 1 of 1 active",
        "threshold 0.2",
    ]
    assert bars.figure.get_suptitle() == "b collapsed"
