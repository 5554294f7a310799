"""Tables are drawn as numbers under the names of their columns."""

import math

import numpy as np
import pytest
import torch
from drawn import texts

from pyro_vae import guides, handlers, likelihoods, plots
from pyro_vae.data import Column, Dataset, Rows
from pyro_vae.models import VAE
from pyro_vae.plots.tables import table_axes

COLUMNS = (
    Column("height", "numeric"),
    Column("visits", "count"),
    Column("smokes", "binary", ("no", "yes")),
    Column("favourite_town_of_all", "categorical", ("Bonn", "Oslo", "a town of a long name")),
)


def table(n=9):
    torch.manual_seed(0)
    parts = [torch.randn(n), torch.poisson(torch.full((n,), 4.0))]
    return torch.stack([*parts, torch.arange(n) % 2, torch.arange(n) % 3], 1)


@pytest.fixture
def pair():
    data = Dataset(Rows.of(table(60), COLUMNS))
    vae = VAE((4,), 2, likelihood=likelihoods.for_columns(data), hidden=(4,))
    return vae, guides.BottomUp(vae)


def written(ax):
    """All texts, by where they stand: (names, rows of cells)."""
    found = {}
    for text in ax.texts:
        x, y = text.get_position()
        found.setdefault(round(y, 3), []).append((x, text.get_text()))
    lines = [[text for _, text in sorted(line)] for _, line in sorted(found.items())]
    return lines[0], lines[1:]


def test_numbers_stand_under_their_names_as_they_are():
    x = torch.tensor([[0.5, 3.0, 0.0, 0.0], [-12.25, 11.0, 1.0, 2.0], [math.nan] * 4])
    names, cells = written(plots.images(Rows.of(x, COLUMNS)))
    assert names == ["height", "visits", "smokes", "favourite\ntown of all"]
    assert cells == [
        ["0.5", "3", "no", "Bonn"],
        ["-12.2", "11", "yes", "a town of a l..."],
        ["-", "-", "-", "-"],
    ]


def test_means_of_counts_are_no_whole_numbers_and_tiny_ones_are_seen():
    columns = [Column("n", "count"), Column("p", "binary"), Column("s", "numeric")]
    x = torch.tensor([[1.25, 0.123, 1e-5], [120.0, 0.999, 2e-5]])
    _, cells = written(plots.images(Rows.of(x, columns)))
    assert cells == [["1", "0.12", "1.00e-05"], ["120", "1.00", "2.00e-05"]]


def test_the_shade_is_by_the_place_in_the_column_and_none_for_categories():
    x = torch.tensor([[1.0, 5.0, 0.0, 1.0], [3.0, 5.0, 1.0, 2.0], [2.0, math.nan, 0.0, 0.0]])
    ax = plots.images(Rows.of(x, COLUMNS))
    shades = np.ma.getdata(ax.collections[0].get_array())
    np.testing.assert_array_equal(shades[:, 0], [0, 1, 0.5])
    assert np.isnan(shades[:, 2:]).all() and np.isnan(shades[2, 1])
    assert (shades[:2, 1] == 0).all()


def test_reconstructions_stand_below_their_data(pair):
    vae, guide = pair
    x = table(3)
    (ax,) = plots.reconstructions(vae, guide, x).axes
    labels = texts(ax.get_yticklabels())
    assert labels == [t for i in range(3) for t in (f"{i}  data", "reconstruction")]
    _, cells = written(ax)
    assert [line[2] for line in cells[::2]] == ["no", "yes", "no"]
    (ax,) = plots.denoising(vae, guide, x, lambda x: x).axes
    assert texts(ax.get_yticklabels())[:3] == ["0  data", "corrupted", "reconstruction"]


def test_samples_traversals_interpolations_and_outliers_are_tables(pair):
    vae, guide = pair
    x = table(5)
    assert len(plots.samples(vae, 7).get_yticks()) == 7
    ax = plots.traversals(vae, guide, x[0], values=[-1.0, 0.0, 1.0], dims=[1, 0])
    labels = texts(ax.get_yticklabels())
    assert [label.rpartition(" ")[2] for label in labels] == ["-1", "0", "1"] * 2
    assert labels[0].startswith("z1[1]") and "nats" in labels[3] and labels[1] == "0"
    assert len(ax.collections) == 2
    ax = plots.interpolation(vae, guide, x[0], x[1], steps=3)
    assert texts(ax.get_yticklabels()) == ["0", "0.5", "1"]
    data = Dataset(Rows.of(x, COLUMNS))
    data.index = np.array([f"person {i}" for i in range(5)])
    ax = plots.outliers(vae, guide, data, n=2, importance_samples=5).axes[0]
    assert all(" nats  person " in label for label in texts(ax.get_yticklabels()))


def test_labels_of_a_conditional_model_are_told(pair):
    data = Dataset(Rows.of(table(60), COLUMNS))
    vae = VAE((4,), 2, likelihood=likelihoods.for_columns(data), hidden=(4,), condition=2)
    ax = plots.conditional(vae, n=2, labels=["a", "b"])
    assert texts(ax.get_yticklabels()) == ["a", "", "b", ""]


def test_names_may_come_with_the_data_alone():
    vae = VAE((4,), 2, likelihood=likelihoods.Gaussian("predicted"), hidden=(4,))
    guide, x = guides.BottomUp(vae), table(3)
    assert len(plots.reconstructions(vae, guide, x).axes) > 1
    rows = Rows.of(x, COLUMNS)
    for figure in (
        plots.reconstructions(vae, guide, rows),
        plots.samples(vae, 3, like=rows).figure,
        plots.traversals(vae, guide, Rows.of(x[:1], COLUMNS)).figure,
        plots.interpolation(vae, guide, rows, x.flip(0)).figure,
    ):
        names, _ = written(figure.axes[0])
        assert names[0] == "height" and len(figure.axes) == 1
    ax = plots.uncertainty(vae, guide, rows).axes[0]
    assert texts(ax.get_yticklabels())[2] == "sigma(z)"
    assert np.isnan(np.ma.getdata(ax.collections[0].get_array())[2]).all()


def test_a_wide_table_goes_on_below_and_a_very_wide_one_shows_what_varies_most():
    def drawn(count):
        columns = [Column(f"gene{i}", "count") for i in range(count)]
        x = torch.poisson(torch.full((4, count), 3.0))
        x[:, -1] = torch.tensor([0.0, 900.0, 0.0, 900.0])
        return plots.images(Rows.of(x, columns))

    ax = drawn(20)
    assert len(ax.get_yticks()) == 8 and not ax.get_xlabel()
    names = [t.get_text() for t in ax.texts if t.get_text().startswith("gene")]
    assert names == [f"gene{i}" for i in range(20)]
    ax = drawn(500)
    names = [t.get_text() for t in ax.texts if t.get_text().startswith("gene")]
    assert ax.get_xlabel() == f"the {len(names)} of 500 columns that vary most"
    assert "gene499" in names and names == sorted(names, key=lambda name: int(name[4:]))


def test_missing_values_are_drawn_as_such(pair):
    vae, _ = pair
    model = handlers.missing(vae)
    x = table(3)
    x[0, 1] = math.nan
    (ax,) = plots.reconstructions(model, guides.BottomUp(model), x).axes
    _, cells = written(ax)
    assert cells[0][1] == "-" and cells[1][1] != "-"


def test_axes_of_a_person_hold_a_table_in_letters_that_fit(pair):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(3, 1))
    assert plots.samples(pair[0], 20, ax=ax) is ax
    small = ax.texts[0].get_fontsize()
    assert small < table_axes(table(2), COLUMNS, ["a", "b"]).texts[0].get_fontsize()
