import math

import pytest
import torch

from pyro_vae.ground import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.1, "0.10"),
        (0.0999, "0.1"),
        (0.0123, "0.012"),
        (-0.004, "-0.004"),
        (-1, "-1.00"),
        (12.345, "12.35"),
    ],
)
def test_numbers_have_two_decimals_or_two_digits(value, text):
    assert tables.number(value) == text


def test_mean_and_standard_error():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert tables.mean_and_error(values) == pytest.approx((3.0, math.sqrt(14 / 3 / 4)))
    mean, error = tables.mean_and_error(values[:1])
    assert mean == 1.0 and math.isnan(error)
    assert tables.with_error(mean, error) == "1.00"
    assert tables.with_error(3.0, 0.05) == "3.00 +- 0.05"


def test_tables_as_text_and_html():
    header, rows = ["site", "KL"], [["z1", "12.30"], ["all", "1"]]
    assert tables.text_table(header, rows).splitlines() == [
        "  site     KL",
        "  z1    12.30",
        "  all       1",
    ]
    html = tables.html_table("a < b", header, rows, notes=["c & d"])
    assert "a &lt; b" in html and "c &amp; d" in html
    assert "<tr><td>z1</td><td>12.30</td></tr><tr><td>all</td><td>1</td></tr>" in html
