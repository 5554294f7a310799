"""Training curves, compared with the numbers that they show."""

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawn import texts

from pyro_vae import plots


def rows(epochs=4, sites=("z1", "z2"), beta=1.0, validation=True):
    return [
        {
            "epoch": i,
            "elbo": -100.0 / i,
            "objective": -90.0 / i,
            "reconstruction": -80.0 / i,
            "kl": {site: float(i + j) for j, site in enumerate(sites)},
            "beta": beta,
            "lr": 1e-3,
            "guide": "BottomUp",
            "seconds": 1.0,
        }
        | (
            {
                "validation": {
                    "elbo": -110.0 / i,
                    "elbo_se": 0.5,
                    "reconstruction": -85.0 / i,
                    "kl": {site: 2.0 * i + j for j, site in enumerate(sites)},
                }
            }
            if validation
            else {}
        )
        for i in range(1, epochs + 1)
    ]


def curves(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}


def test_history_draws_the_numbers():
    bound, kl, beta = plots.history(rows(), axes=plt.subplots(1, 3)[1]).axes
    assert curves(bound) == {
        "ELBO, training": [[i, -100 / i] for i in range(1, 5)],
        "ELBO, validation": [[i, -110 / i] for i in range(1, 5)],
    }
    assert curves(kl) == {
        "z1": [[i, i] for i in range(1, 5)],
        "z1, validation": [[i, 2 * i] for i in range(1, 5)],
        "z2": [[i, i + 1] for i in range(1, 5)],
        "z2, validation": [[i, 2 * i + 1] for i in range(1, 5)],
    }
    ((_, line),) = curves(beta).items()
    assert line == [[i, 1] for i in range(1, 5)]
    band = bound.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == -110.5 and band[:, 1].max() == -27
    assert [ax.get_ylabel() for ax in (bound, kl)] == ["nats per datum"] * 2
    assert {ax.get_xlabel() for ax in (bound, kl, beta)} == {"epoch"}


@pytest.mark.parametrize("beta", [0.5, 0.0, {"z1": 1.0, "z2": 0.5}])
def test_history_draws_the_objective_where_beta_is_not_one(beta):
    bound = plots.history(rows(beta=beta, validation=False)).axes[0]
    assert curves(bound) == {
        "ELBO, training": [[i, -100 / i] for i in range(1, 5)],
        "objective, training": [[i, -90 / i] for i in range(1, 5)],
    }


def test_history_draws_beta_per_site():
    data = rows(beta={"z1": 0.25, "z2": 2.0}) + rows(1, beta=1.0)
    data[-1]["epoch"] = 5
    assert curves(plots.history(data).axes[2]) == {
        "z1": [[i, 0.25] for i in range(1, 5)] + [[5, 1]],
        "z2": [[i, 2] for i in range(1, 5)] + [[5, 1]],
    }


def test_history_marks_swaps():
    data = rows()
    data[2] |= {"swapped": True, "guide": "Ladder"}
    figure = plots.history(data)
    for ax in figure.axes:
        marks = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
        assert [set(mark.get_xdata()) for mark in marks] == [{2.5}]
        assert [text.strip() for text in texts(ax.texts)] == ["Ladder"]


def test_history_bears_gaps():
    data = rows()
    del data[1]["validation"]
    data[2]["validation"]["elbo"] = None
    data[3]["kl"] = {"z1": 4.0, "z3": 1.0}
    del data[0]["beta"]
    bound, kl, beta = plots.history(data, axes=plt.subplots(1, 3)[1]).axes
    seen = curves(bound)["ELBO, validation"]
    assert [math.isnan(value) for _, value in seen] == [False, True, True, False]
    np.testing.assert_equal(curves(kl)["z3"], [[i, math.nan] for i in (1, 2, 3)] + [[4, 1]])
    assert math.isnan(beta.get_lines()[0].get_ydata()[0])


def test_history_of_one_epoch_is_visible():
    for ax in plots.history(rows(1)).axes:
        assert all(line.get_marker() == "o" for line in ax.get_lines())
        ax.figure.draw_without_rendering()
        assert all(float(t) == int(float(t)) for t in texts(ax.get_xticklabels()))


def test_history_of_nothing_tells_what_to_do():
    with pytest.raises(ValueError, match=r"call trainer\.fit first"):
        plots.history([])
    for wrong in (1, 4):
        with pytest.raises(ValueError, match=f"expected 2 or 3, got {wrong}"):
            plots.history(rows(), axes=plt.subplots(1, wrong, squeeze=False)[1][0])


@pytest.mark.parametrize("beta", [1.0, 4.0, {"z1": 1.0, "z2": 0.5}])
def test_history_has_a_panel_of_beta_where_it_moves(beta):
    data = rows(beta=beta)
    assert [ax.get_title() for ax in plots.history(data).axes] == ["bound", "KL per site"]
    data[0]["beta"] = 0.0
    assert plots.history(data).axes[2].get_title() == "beta"


def test_history_uses_given_axes():
    figure, axes = plt.subplots(3, 1)
    assert plots.history(rows(), axes=axes) is figure
    assert all(ax.get_lines() for ax in axes)


def test_a_notebook_shows_a_figure_once(monkeypatch):
    figure = plots.history(rows())
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert plt.fignum_exists(figure.number)
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "module://matplotlib_inline.backend")
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert not plt.fignum_exists(figure.number)


def layered(epochs=4, **changes):
    return [
        {
            "epoch": i,
            "elbo": -100.0 / i,
            "objective": -90.0 / i,
            "kl": {"z1": 5.0 + i, "z2": 1.0 / i},
            "beta": 1.0,
            "active_units": {"z1": 8 + i, "z2": 3},
            "guide": "BottomUp",
        }
        | changes
        for i in range(1, epochs + 1)
    ]


def named_curves(ax):
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): line.get_xydata().tolist() for line in lines}


# active_units


def test_active_units_draws_the_numbers():
    units, kl = plots.active_units(layered()).axes
    assert named_curves(units) == {
        "z1": [[i, 8 + i] for i in range(1, 5)],
        "z2": [[i, 3] for i in range(1, 5)],
    }
    assert named_curves(kl) == {
        "z1": [[i, 5 + i] for i in range(1, 5)],
        "z2": [[i, 1 / i] for i in range(1, 5)],
    }
    assert (units.get_ylabel(), kl.get_ylabel()) == ("units", "nats per datum")
    colors = [[line.get_color() for line in ax.get_lines()] for ax in (units, kl)]
    assert colors[0] == colors[1] and len(set(colors[0])) == 2


def test_a_swap_is_marked_and_tells_what_was_frozen():
    data = layered()
    data[2] |= {"swapped": True, "guide": "Ladder", "frozen": True}
    for figure in (plots.active_units(data), plots.history(data)):
        for ax in figure.axes:
            (mark,) = (line for line in ax.get_lines() if line.get_linestyle() == ":")
            assert set(mark.get_xdata()) == {2.5}
            assert [text.get_text().strip() for text in ax.texts] == ["Ladder, model frozen"]


def test_history_draws_the_importance_weighted_bound_beside_the_elbo():
    assert "objective, training" not in named_curves(plots.history(layered()).axes[0])
    drawn = named_curves(plots.history(layered(particles=10)).axes[0])
    assert drawn["objective, training"] == [[i, -90 / i] for i in range(1, 5)]


def test_wild_first_epochs_are_left_out_of_a_long_run():
    data = layered(40)
    data[0] |= {"elbo": -2000.0, "kl": {"z1": 1300.0, "z2": 1.0}}
    bound, kl = plots.history(data).axes
    assert -400 < bound.get_ylim()[0] < -40 and 10 > bound.get_ylim()[1] > -10
    assert kl.get_ylim()[0] < 0 and 45 < kl.get_ylim()[1] < 200
    assert named_curves(bound)["ELBO, training"][0] == [1, -2000.0]
    bound, _ = plots.history(data[:8]).axes
    assert bound.get_ylim()[0] < -2000
    flat = [row | {"beta": float(row["epoch"] > 1)} for row in layered(40)]
    assert plots.history(flat).axes[2].get_ylim()[0] < 0


def test_ten_layers_are_in_their_order():
    names = [f"z{i}" for i in (10, 2, 1)]
    data = layered(active_units=dict.fromkeys(names, 1), kl=dict.fromkeys(names, 1.0))
    assert list(named_curves(plots.active_units(data).axes[0])) == ["z1", "z2", "z10"]


def test_active_units_on_axes_of_the_caller():
    figure, axes = plt.subplots(1, 2)
    assert plots.active_units(layered(), axes=axes) is figure
    with pytest.raises(ValueError, match="axes: expected 2, got 1"):
        plots.active_units(layered(), axes=axes[:1])


def test_rows_without_active_units_are_an_error():
    with pytest.raises(ValueError, match=r"call trainer\.fit first"):
        plots.active_units([])
    with pytest.raises(ValueError, match="rows: expected active_units in them, got none"):
        plots.active_units(layered(active_units={}))
