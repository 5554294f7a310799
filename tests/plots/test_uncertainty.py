"""The picture of a calibration, from numbers of any origin."""

from types import SimpleNamespace

import numpy as np
from drawn import texts

from pyro_vae import plots


def test_numbers_of_any_origin_are_drawn():
    numbers = SimpleNamespace(
        widths=np.array([0.5, 1, 2, 3]), inside=[0.3, 0.6, 0.9, 1.0], expected=[0.4, 0.7, 0.95, 1]
    )
    ax = plots.calibration(numbers)
    assert ax.lines[1].get_xydata().tolist() == [[0.4, 0.3], [0.7, 0.6], [0.95, 0.9], [1, 1]]
    assert [line.get_xydata().tolist() for line in ax.lines[2:]] == [[[0.7, 0.6]], [[0.95, 0.9]]]
    assert texts(ax.get_legend().get_texts()) == [
        "calibrated",
        "this pair",
        "within 1 sigma: 60.0 %",
        "within 2 sigma: 90.0 %",
    ]
