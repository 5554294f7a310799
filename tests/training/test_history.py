import json
import math

import pytest
import torch

from pyro_vae import Trainer, guides, likelihoods
from pyro_vae.ground.tables import lookup
from pyro_vae.infer import ELBOTerms
from pyro_vae.models import VAE
from pyro_vae.training.history import History
from pyro_vae.training.totals import Totals

ROWS = [
    {"epoch": 1, "elbo": -9.0, "kl": {"z1": 1.5, "z2": 0.25}, "beta": 0.5},
    {"epoch": 2, "elbo": -8.0, "kl": {"z1": 2.5, "z2": 0.0}, "validation": {"elbo": -8.5}},
]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("elbo", [-9.0, -8.0]),
        ("kl.z2", [0.25, 0.0]),
        ("kl", [{"z1": 1.5, "z2": 0.25}, {"z1": 2.5, "z2": 0.0}]),
        ("validation.elbo", [None, -8.5]),
        ("validation.kl.z1", [None, None]),
        ("beta.z1", [None, None]),
        ("unknown", [None, None]),
    ],
)
def test_columns_by_dotted_key(key, expected):
    assert History(ROWS).column(key) == expected
    assert [lookup(row, key) for row in ROWS] == expected


def test_json_text_holds_every_row():
    assert json.loads(History(ROWS).to_json()) == ROWS
    assert History(json.loads(History(ROWS).to_json())) == History(ROWS)


def test_json_has_no_number_that_is_not_finite():
    rows = [{"elbo": -math.inf, "kl": {"z1": math.nan, "z2": 1.5}, "beta": [math.inf, 1.0]}]
    text = History(rows).to_json()
    assert json.loads(text, parse_constant=pytest.fail) == [
        {"elbo": None, "kl": {"z1": None, "z2": 1.5}, "beta": [None, 1.0]}
    ]


@pytest.mark.filterwarnings("ignore:data. the values, from .* are far from 1")
def test_sums_over_an_epoch_do_not_overflow():
    """Each term of data of scale 1e18 is a float32, their sum is none."""
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    x = 1e18 * torch.randn(500, 6)
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
    trainer.fit(x, batch_size=10, epochs=1, validation=x, progress=False)
    (row,) = trainer.history
    assert math.isfinite(row["elbo"]) and math.isfinite(row["validation"]["elbo"])
    # At the start the mean square is that of the data, and the KL is small beside it
    assert row["reconstruction"] == pytest.approx(
        -0.5 * float(x.double().square().sum(1).mean()), rel=0.5
    )


def terms(n, scale=1.0):
    return ELBOTerms(scale * torch.randn(n), {"b": torch.rand(n), "a": torch.rand(n)})


def test_totals_weigh_each_datum_alike():
    parts = [terms(n) for n in (5, 5, 2)]
    totals = Totals(step=0)
    for part in parts:
        totals.add(-(part.reconstruction - 3 * part.kl["a"]).sum(), part)
    x = torch.cat([part.reconstruction for part in parts])
    kl = {site: torch.cat([part.kl[site] for part in parts]) for site in "ba"}
    means = totals.means()
    assert totals.count == 12
    assert means["reconstruction"] == pytest.approx(float(x.mean()), abs=1e-6)
    assert means["kl"] == pytest.approx({s: float(v.mean()) for s, v in kl.items()}, abs=1e-6)
    assert means["elbo"] == pytest.approx(float((x - kl["a"] - kl["b"]).mean()), abs=1e-6)
    assert means["objective"] == pytest.approx(float((x - 3 * kl["a"]).mean()), abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t, v: t.kl["a"].fill_(v), "^KL of site 'a' became NaN or infinite at step 9"),
        (
            lambda t, v: t.reconstruction[0].fill_(v),
            "^reconstruction of the observed sites became",
        ),
        (
            lambda t, v: (t.kl["a"].fill_(v), t.kl["b"].fill_(v)),
            "^KL of site 'b' and KL of site 'a' became NaN",
        ),
    ],
)
def test_the_first_step_that_is_not_finite_is_named(spoil, message, bad):
    totals = Totals(step=7)
    totals.add(torch.tensor(1.0), terms(4))
    spoilt = terms(4)
    spoil(spoilt, bad)
    totals.add(torch.tensor(1.0), spoilt)
    totals.add(torch.tensor(float("nan")), terms(4, scale=float("nan")))
    with pytest.raises(FloatingPointError, match=message):
        totals.means()


def test_plot_draws_the_bound():
    lines = [line for ax in History(ROWS).plot().axes for line in ax.lines]
    assert [-9.0, -8.0] in [list(line.get_ydata()) for line in lines]
