"""The picture of the KL of units over epochs."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from pyro_vae import plots


def rows(epochs=4, **changes):
    """Units of z1 with a KL of 1, 0.0001 and 10 epochs' worth; those of z2 shrink."""
    return [
        {
            "epoch": i,
            "active_units": {"z1": 3, "z2": 2},
            "kl": {"z1": 1.0, "z2": 1.0},
            "unit_kl": {"z1": [1.0, 1e-4, 10.0 * i], "z2": [0.5 / i, -0.2]},
            "guide": "BottomUp",
        }
        | changes
        for i in range(1, epochs + 1)
    ]


def panels(figure):
    return {ax.get_title().split(":")[0]: ax for ax in figure.axes if ax.get_title()}


def mesh(ax):
    """The numbers of a panel, (units, epochs), and its edges along the epochs."""
    (drawn,) = ax.collections
    return np.ma.filled(drawn.get_array(), math.nan), drawn.get_coordinates()[0, :, 0]


def test_the_panels_have_the_numbers_in_the_order_of_the_last():
    figure = plots.unit_kl(rows())
    found = panels(figure)
    assert list(found) == ["z1", "z2"] and len(figure.axes) == 3
    values, edges = mesh(found["z1"])
    expected = [[10.0, 20.0, 30.0, 40.0], [1.0] * 4, [1e-4] * 4]
    np.testing.assert_allclose(values, expected)
    np.testing.assert_allclose(edges, [0.5, 1.5, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(mesh(found["z2"])[0], [[0.5, 0.25, 0.5 / 3, 0.125], [-0.2] * 4])
    assert found["z1"].get_title() == "z1: 2 of 3 active"
    assert found["z2"].get_title() == "z2: 1 of 2 active"
    # The largest on top
    low, high = found["z1"].get_ylim()
    assert low > high
    assert figure.axes[-1].get_ylabel() == "KL in nats per datum"


def test_the_scale_is_logarithmic_and_shows_the_threshold():
    figure = plots.unit_kl(rows(), threshold=0.2)
    (drawn,) = panels(figure)["z1"].collections
    assert (drawn.norm.vmin, drawn.norm.vmax) == (0.02, 40.0)
    assert drawn.norm(math.sqrt(0.02 * 40.0)) == pytest.approx(0.5)
    assert panels(figure)["z2"].get_title() == "z2: 0 of 2 active"
    (line,) = figure.axes[-1].get_lines()[-1:]
    assert set(line.get_ydata()) == {0.2}
    # What is no more than chance has the colour of nothing
    red, green, blue, _ = drawn.cmap(drawn.norm(1e-4))
    assert min(red, green, blue) > 0.95
    small = [{"unit_kl": {"z1": [1e-5, 0.0]}}]
    (drawn,) = panels(plots.unit_kl(small))["z1"].collections
    assert drawn.norm.vmax == 0.1


def test_epochs_between_measurements_and_missing_numbers():
    """A site that comes later, null of a file, and epochs without a measurement."""
    data = rows(9)
    for row in data:
        if row["epoch"] % 3:
            del row["unit_kl"]
    data[2]["unit_kl"] = {"z1": [1.0, None, 30.0]}
    data[4] |= {"swapped": True}
    found = panels(plots.unit_kl(data))
    values, edges = mesh(found["z1"])
    np.testing.assert_allclose(edges, [0.5, 3.5, 6.5, 9.5])
    np.testing.assert_allclose(values[2], [math.nan, 1e-4, 1e-4])
    np.testing.assert_allclose(mesh(found["z2"])[0][0], [math.nan, 0.5 / 6, 0.5 / 9])
    assert set(found["z1"].get_lines()[0].get_xdata()) == {4.5}


def test_what_is_not_known_in_the_end():
    data = rows(3)
    data[2]["unit_kl"] = {"z1": [None, 0.02, 2.0], "z2": [None, None]}
    found = panels(plots.unit_kl(data))
    assert [ax.get_title() for ax in found.values()] == ["z1: 2 of 3 active", "z2: 0 of 2 active"]
    (drawn,) = found["z1"].collections
    assert drawn.norm.vmax == 2.0
    # The unknown one is last
    np.testing.assert_allclose(mesh(found["z1"])[0][:, -1], [2.0, 0.02, math.nan])
    data = [{"epoch": e, "unit_kl": {"z1": [1.0]}} for e in (2, 10)]
    np.testing.assert_allclose(mesh(panels(plots.unit_kl(data))["z1"])[1], [0.5, 2.5, 10.5])


def test_one_epoch_and_many_layers():
    names = [f"z{i}" for i in (7, 6, 5, 4, 10, 2, 1)]
    figure = plots.unit_kl(rows(1, unit_kl={name: [1.0] for name in names}))
    assert list(panels(figure)) == ["z1", "z2", "z4", "z5", "z6", "z7", "z10"]
    values, edges = mesh(panels(figure)["z10"])
    assert values.shape == (1, 1) and edges.tolist() == [0.5, 1.5]
    figure.canvas.draw()


def test_a_swap_is_marked():
    data = rows()
    data[2] |= {"swapped": True, "guide": "Ladder", "frozen": True}
    for ax in panels(plots.unit_kl(data)).values():
        (mark,) = (line for line in ax.get_lines() if line.get_linestyle() == ":")
        assert set(mark.get_xdata()) == {2.5}
        assert [text.get_text().strip() for text in ax.texts] == ["Ladder, model frozen"]


def test_axes_of_the_caller_and_bad_rows():
    figure, axes = plt.subplots(1, 2)
    assert plots.unit_kl(rows(), axes=axes) is figure
    with pytest.raises(ValueError, match="axes: expected 2, one for each layer, got 1"):
        plots.unit_kl(rows(), axes=axes[:1])
    for bad in ([], rows(unit_kl={})):
        with pytest.raises(ValueError, match=r"expected unit_kl in them.*callbacks\.UnitKL"):
            plots.unit_kl(bad)
    with pytest.raises(ValueError, match="threshold"):
        plots.unit_kl(rows(), threshold=0.0)


def test_active_units_counts_by_the_kl_too():
    units, kl = plots.active_units(rows()).axes
    dashed = [line for line in units.get_lines() if line.get_label() == "_by_kl"]
    assert [line.get_xydata().tolist() for line in dashed] == [
        [[i, 2] for i in range(1, 5)],
        [[i, 1] for i in range(1, 5)],
    ]
    assert all(line.get_linestyle() == "--" for line in dashed)
    texts = [text.get_text() for text in units.get_legend().get_texts()]
    assert texts == ["z1", "z2", "KL > 0.01"]
    assert not [line for line in kl.get_lines() if line.get_label() == "_by_kl"]
    without = plots.active_units(rows(unit_kl={})).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in without] == ["z1", "z2"]
