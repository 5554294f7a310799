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


def test_standard_errors_of_several_means():
    values = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [6.0, 4.0]])
    expected = torch.tensor([math.sqrt(14 / 3 / 4), 1.0])
    torch.testing.assert_close(tables.standard_error(values), expected)
    assert tables.standard_error(values[:1]).isnan().tolist() == [True, True]
    assert tables.or_none(0.5) == 0.5 and tables.or_none(math.nan) is None


def test_tables_as_text_and_html():
    header, rows = ["site", "KL"], [["z1", "12.30"], ["all", "1"]]
    table = tables.Table("a < b", header, rows, ["c & d"])
    assert str(table).splitlines() == [
        "a < b",
        "  site     KL",
        "  z1    12.30",
        "  all       1",
        "c & d",
    ]
    html = table.to_html()
    assert "a &lt; b" in html and "c &amp; d" in html
    assert "<tr><th>site</th><th>KL</th></tr>" in html
    assert "<tr><td>z1</td><td>12.30</td></tr><tr><td>all</td><td>1</td></tr>" in html


def test_columns_to_the_left_and_units_in_the_header():
    rows = [["a", "1"], ["bcd", "12"]]
    table = tables.Table("", ["name", "KL"], rows, units=["", "nats"], left=[1])
    assert str(table).splitlines()[1:] == ["  name  KL, nats", "  a     1", "  bcd   12"]
    left = " style='text-align:left'"
    assert f"<tr><td>a</td><td{left}>1</td></tr>" in table.to_html()
    assert f"<tr><th>name</th><th{left}>KL, nats</th></tr>" in table.to_html()
    assert "| name | KL, nats |" in table.to_markdown()
    assert r"name & KL, nats \\" in table.to_latex() and "{ll}" in table.to_latex()


def test_lines_of_a_table_without_a_header():
    rows = [["one", tables.Cell("{1}", {"": 0.01})]]
    table = tables.Table("of", ["what", "how"], rows, units=["", "%"], line="{:>5}: {}%")
    assert str(table) == "of\n  one: {1}%"
    assert "<caption>of</caption><tr><td>one</td><td>{1} %</td></tr></table>" in (table.to_html())
    assert "| what | how, % |" in table.to_markdown() and "| one | {1} |" in table.to_markdown()


def test_a_caption_that_is_wider_than_a_page_wraps_in_notebooks():
    in_notebook = pytest.importorskip("IPython.core.formatters").HTMLFormatter()
    rows = [["one", "1"]]
    short, long = (tables.Table("a <b> " * n, ["what", "n"], rows, ["note"]) for n in (16, 17))
    assert in_notebook(short).startswith("<table style='white-space:nowrap'><caption style=")
    page = in_notebook(long)
    assert page.startswith(f"<p>{'a &lt;b&gt; ' * 17}</p><table style='white-space:nowrap'><tr>")
    assert page.endswith("</table><p>note</p>") and "caption" not in page


def test_signs_of_latex_are_escaped():
    table = tables.Table(
        "50% of a_b & #1",
        ["name", "$"],
        [["[a]{\\}\n~^", (-1.5, 0.25)], ["a-1 <|>", "2e-05"]],
        ["5%"],
    )
    assert (
        table.to_latex()
        == r"""\begin{table}
\centering
\caption{50\% of a\_b \& \#1}
\begin{tabular}{lr}
\toprule
name & \$ \\
\midrule
{[}a]\{\textbackslash{}\} \textasciitilde{}\textasciicircum{} & $-$1.50 $\pm$ 0.25 \\
a-1 \textless{}\textbar{}\textgreater{} & 2e-05 \\
\bottomrule
\end{tabular}
\par 5\%
\end{table}"""
    )


def test_signs_of_markdown_are_escaped():
    table = tables.Table("E[x|z]", ["a_b", "c"], [["*d*\n`e`", "1 +- 2"]], ["<f> $g$"])
    assert table.to_markdown().splitlines() == [
        r"E[x\|z]",
        "",
        r"| a\_b | c |",
        "|---|---|",
        r"| \*d\* \`e\` | 1 ± 2 |",
        "",
        r"\<f> \$g\$",
    ]


def test_a_frame_has_columns_for_all_numbers_of_a_cell():
    pytest.importorskip("pandas")
    rows = [
        ["z1", tables.Cell("1 of 2", {"": 1, "of": 2}), (0.5, 0.1)],
        ["z2", tables.Cell("-", {}), 0.25],
    ]
    frame = tables.Table("", ["site", "active", "KL"], rows).to_frame()
    assert list(frame.columns) == ["active", "active of", "KL", "KL error"]
    assert frame.loc["z1"].tolist() == [1, 2, 0.5, 0.1]
    assert frame.loc["z2", "KL"] == 0.25 and frame.loc["z2"].isna().tolist() == [1, 1, 0, 1]


def test_links_and_entities_of_markdown_are_text():
    table = tables.Table("a & b", ["~x~"], [["[a](b)"]])
    assert table.to_markdown().splitlines() == [
        r"a \& b",
        "",
        r"| \~x\~ |",
        "|---|",
        r"| [a\](b) |",
    ]


def test_columns_of_one_name_stay_apart_in_a_frame():
    pytest.importorskip("pandas")
    frame = tables.Table("", ["score", "mean", "mean"], [["MIG", (0.5, 0.1), 0.25]]).to_frame()
    assert list(frame.columns) == ["mean", "mean error", "mean"]
    assert frame.loc["MIG"].tolist() == [0.5, 0.1, 0.25]


def test_columns_of_a_frame_are_in_their_order():
    pytest.importorskip("pandas")
    frame = tables.Table(
        "", ["a", "b", "c"], [["x", None, 1.0], ["y", (2.0, 0.5), 3.0]]
    ).to_frame()
    assert list(frame.columns) == ["b", "b error", "c"]
