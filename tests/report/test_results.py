"""What results are shown as: HTML that says what the text says, frames, Markdown, LaTeX."""

import re
import sys
from html.parser import HTMLParser

import pytest
import torch

from pyro_vae import Trainer, data, diagnostics, guides, handlers, infer, likelihoods, models
from pyro_vae.ground.tables import Tabular
from pyro_vae.training.history import History


class Page(HTMLParser):
    """Collects the text; fails where a tag is not closed by its own name."""

    def __init__(self, page):
        super().__init__()
        self.open, self.words = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    @property
    def text(self):
        return " ".join(self.words).replace("\N{PLUS-MINUS SIGN}", "+-")


def numbers(text):
    return sorted(re.findall(r"\d+\.?\d*", text))


class FirstPixels(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4]


def others(vae, guide, whole):
    """Results of fewer words."""
    x = whole.x[:20]
    levels = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli(), levels=2)
    annealing = {"temperatures": 3, "chains": 2, "leapfrog": 1, "progress": False}
    return {
        "importance": infer.importance(vae, guide, x, samples=30, progress=False),
        "elbo_terms": infer.elbo_terms(vae, guide, x),
        "annealed": infer.annealed(vae, guide, x, **annealing),
        "sandwich": infer.sandwich(vae, guide, n=3, importance_samples=5, **annealing),
        "coherence": infer.coherence(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])),
        "codebooks": diagnostics.codebook(levels, guides.NearestCode(levels), x),
        "accuracy": diagnostics.Accuracy(torch.eye(4)[0], torch.rand(4)),
        "check_pair": infer.check_pair(vae, guide, x),
        "structure": infer.structure(vae),
    }


@pytest.fixture(scope="module")
def shown():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        factors = torch.rand(80, 2)
        y = (factors[:, 0] > 0.5).long()
        whole = data.Dataset(
            torch.rand(80, 1, 8, 8).round(),
            y,
            names=["<a>", "b"],
            factors=factors.round(),
            factor_names=["<first>", "second"],
        )
        vae = models.VAE((1, 8, 8), (4, 2), likelihood=likelihoods.Bernoulli(), hidden=(8,))
        guide = guides.Ladder(vae)
        trainer = Trainer(vae, guide, seed=0)
        trainer.fit(whole, validation=whole, epochs=7, progress=False)
        vq = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli())
        gaussian = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(sigma="predicted"))
        return {
            "evaluate": diagnostics.evaluate(vae, guide, whole, importance_samples=0),
            "collapse": diagnostics.collapse(vae, guide, whole),
            "layers": diagnostics.layers(vae, guide, whole),
            "compare_guides": infer.compare_guides(
                vae, {"<ladder>": guide}, whole, importance_samples=5
            ),
            "disentanglement": diagnostics.disentanglement(vae, guide, whole),
            "calibration": diagnostics.calibration(
                gaussian, guides.BottomUp(gaussian), torch.randn(20, 6)
            ),
            "codebook": diagnostics.codebook(vq, guides.NearestCode(vq), whole),
            "rarity": diagnostics.rarity(vae, guide, whole),
            "outliers": diagnostics.outliers(vae, guide, whole, {"<kind>": 1 - whole.x}),
            "continuity": diagnostics.continuity(vae, guide, whole, pairs=4),
            "frechet_distance": diagnostics.frechet_distance(
                whole.x, torch.rand(70, 1, 8, 8).round(), features=FirstPixels()
            ),
            "signal_to_noise": diagnostics.signal_to_noise(vae, guide, whole),
            "kernel_distance": diagnostics.kernel_distance(
                whole.x, torch.rand(70, 1, 8, 8).round(), features=FirstPixels()
            ),
            **others(vae, guide, whole),
            "model": vae,
            "guide": guide,
            "vqvae": vq,
            "wrapped": handlers.scale_latents(vae, 0.5),
            "trainer": trainer,
            "history": trainer.history,
        }


def in_notebook(value):
    return value._repr_html_()


TABLES = [
    "evaluate",
    "collapse",
    "layers",
    "compare_guides",
    "disentanglement",
    "calibration",
    "codebook",
    "rarity",
    "outliers",
    "continuity",
]


OTHERS = ["importance", "elbo_terms", "annealed", "sandwich", "coherence", "codebooks", "accuracy"]
RESULTS = [*TABLES, *OTHERS, "frechet_distance", "kernel_distance", "history"]
OF_WORDS = ["check_pair", "structure"]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_numbers_of_its_text(shown, name):
    page = Page(in_notebook(shown[name]))
    one_line = "<table style='white-space:nowrap'><caption style='width:0;text-align:left'>"
    found = in_notebook(shown[name])
    if long := re.fullmatch("<p>(.{101,}?)</p>(<table style='white-space:nowrap'>)(.*)", found):
        # Wraps above the table, of which it is the caption
        found = f"{one_line}{long[1]}</caption>{long[3]}"
    assert found.startswith(one_line)
    assert shown[name].to_html() == found.replace(one_line, "<table><caption>")
    assert page.text.count("+-") == str(shown[name]).count("+-")
    assert numbers(page.text) == numbers(str(shown[name]))


@pytest.mark.parametrize("name", ["model", "guide", "vqvae", "wrapped"])
def test_a_program_is_shown_as_it_is_printed(shown, name):
    page = in_notebook(shown[name])
    assert Page(page).open == [] and "".join(Page(page).words) == repr(shown[name])
    assert page.startswith("<pre>")


def test_a_history_is_its_last_epochs(shown):
    history = shown["history"]
    rows = re.findall(r"<tr>(.*?)</tr>", in_notebook(history))
    head, *body = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert [row[0] for row in body] == ["3", "4", "5", "6", "7"]
    last = dict(zip(head, body[-1], strict=True))
    assert last["guide"] == "Ladder"
    for key in ("elbo", "kl.z1", "kl.z2", "validation.elbo"):
        assert float(last[key]) == pytest.approx(history.column(key)[-1], abs=0.006, rel=0.05)
    assert "last 5 of 7 epochs" in in_notebook(history)
    assert repr(history) == repr(list(history))


def test_a_trainer_is_its_pair_and_its_last_epochs(shown):
    page = in_notebook(shown["trainer"])
    assert Page(page).words[0] == repr(shown["trainer"])
    assert in_notebook(shown["history"]) in page
    new = Trainer(shown["model"], shown["guide"])
    assert "".join(Page(in_notebook(new)).words) == repr(new)


def test_histories_of_other_programs_and_empty_ones():
    assert "elbo" not in in_notebook(History([{"epoch": 1}]))
    assert Page(in_notebook(History())).text.startswith("last 0 of 0")


def test_everything_is_escaped_and_takes_the_colours_of_the_theme(shown):
    for name, value in shown.items():
        page = in_notebook(value)
        assert not re.search(r"color|background|<font|<style", page), name
        assert not re.search(r"<(?:a|first|kind|ladder)>", page), name


def cells(lines, mark, undo):
    """The cells of lines of Markdown or LaTeX, as they were before anything was escaped."""
    rows = [re.split(rf"(?<!\\){mark}", line) for line in lines]
    return [[undo(cell.strip()) for cell in row] for row in rows]


def in_one_line(table):
    return [[" ".join(cell.split()) for cell in row] for row in table.texts()]


@pytest.mark.parametrize("name", [*RESULTS, *OF_WORDS])
def test_markdown_has_the_cells_of_the_table(shown, name):
    table, page = shown[name].table(), shown[name].to_markdown()
    head, rule, *lines = [line[1:-1] for line in page.splitlines() if line.startswith("|")]
    assert rule == "|".join(["---"] * len(table.header))
    found = cells(lines, r"\|", lambda cell: re.sub(r"\\(.)", r"\1", cell).replace("±", "+-"))
    assert found == in_one_line(table)
    assert len(cells([head], r"\|", str)[0]) == len(table.header)
    assert page.count("<") == page.count("\\<")


@pytest.mark.parametrize("name", [*RESULTS, *OF_WORDS])
def test_latex_has_the_cells_of_the_table(shown, name):
    table, page = shown[name].table(), shown[name].to_latex()

    def undo(cell):
        cell = cell.replace(r"$\pm$", "+-").replace("$-$", "-").replace("{[}", "[")
        words = {"<": "less", ">": "greater", "|": "bar", "~": "asciitilde"}
        for sign, word in words.items():
            cell = cell.replace(rf"\text{word}{{}}", sign)
        return re.sub(r"\\([&%_#${}])", r"\1", cell)

    _, inside = page.split(r"\begin{tabular}")
    rules = r"\\toprule|\\midrule|\\bottomrule"
    _, head, body, _ = re.split(rules, inside.split(r"\end{tabular}")[0])
    lines = [line.removesuffix(r"\\") for line in body.strip().splitlines()]
    assert cells(lines, "&", undo) == in_one_line(table)
    assert len(re.split(r"(?<!\\)&", head)) == len(table.header)
    for left, right in (("{", "}"), (r"\begin{table}", r"\end{table}")):
        assert page.count(left) == page.count(right) > 0


@pytest.mark.parametrize("name", RESULTS)
def test_frames_hold_numbers(shown, name):
    pandas = pytest.importorskip("pandas")
    table, frame = shown[name].table(), shown[name].to_frame()
    assert frame.index.name == table.header[0] and len(frame) == len(table.rows)
    words = {"unit", "guide", ""}  # of Evaluation, History and Collapse
    for column in frame.columns:
        assert pandas.api.types.is_numeric_dtype(frame[column]) == (column not in words), column


def test_frames_hold_the_numbers_of_the_results(shown):
    pytest.importorskip("pandas")
    frames = {name: shown[name].to_frame() for name in RESULTS}
    for found in (frames["evaluate"], frames["compare_guides"]):
        assert not found.isna().any(axis=None)
    elbo = shown["evaluate"].to_dict()["ELBO"]
    row = frames["evaluate"].loc["ELBO"]
    assert row.tolist() == [elbo["mean"], elbo["standard_error"], "nats/datum"]
    collapse = shown["collapse"]
    row = frames["collapse"].loc["z2"]
    assert row["mutual information"] == float(collapse.sites["z2"].mutual_information.mean())
    assert row["active units"] == collapse.units["z2"].active and row["active units of"] == 2
    layer = shown["layers"]["z1"]
    row = frames["layers"].loc["z1"]
    assert row["KL"] == pytest.approx(float(layer.kl.mean()))
    shares = [row[f"variance of the principal components {i}"] for i in range(1, 5)]
    assert shares == layer.explained_variance_ratio.tolist()
    gap = shown["compare_guides"].to_dict()["<ladder>"]["inference gap"]
    row = frames["compare_guides"].loc["<ladder>"]
    assert [row["inference gap"], row["inference gap error"]] == list(gap.values())
    scores = shown["disentanglement"]
    assert frames["disentanglement"].loc["MIG", "mean"] == scores.scores["MIG"][0]
    assert frames["disentanglement"].loc["SAP", "second"] == scores.per_factor["SAP"][1]
    assert frames["calibration"]["inside"].tolist() == [r[1] for r in shown["calibration"].rows()]
    assert frames["codebook"].loc["perplexity", "value"] == shown["codebook"].perplexity
    median = float(shown["rarity"].log_density.quantile(0.5))
    assert frames["rarity"].loc["data", "median"] == pytest.approx(median)
    area = shown["outliers"].auroc["<kind>"]["KL"]
    row = frames["outliers"].loc["KL"]
    assert (row["<kind> (80)"], row["<kind> (80) error"]) == area
    assert frames["continuity"].loc["at the ends", "recognised"] == shown["continuity"].ends[0]
    assert frames["frechet_distance"].index.tolist() == [float(shown["frechet_distance"])]
    history = shown["history"]
    assert frames["history"].index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert frames["history"]["validation/elbo"].tolist() == history.column("validation.elbo")


def test_a_frame_without_pandas_tells_what_to_do(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    told = r"a frame needs the package pandas: pip install 'pyro_vae\[tables\]', or use "
    with pytest.raises(ImportError, match=told):
        shown["layers"].to_frame()


def test_a_history_without_epochs_has_all_forms():
    assert History().to_markdown().endswith("| epoch | guide |\n|---|---|")
    assert r"epoch & guide \\" in History().to_latex()
    pytest.importorskip("pandas")
    assert len(History().to_frame()) == 0


def test_every_public_result_that_is_a_table_is_shown_here(shown):
    named = [getattr(room, name) for room in (infer, diagnostics) for name in room.__all__]
    results = {found for found in named if isinstance(found, type) and issubclass(found, Tabular)}
    assert results <= {type(value) for value in shown.values()}


def test_standard_errors_are_columns_of_numbers(shown):
    pytest.importorskip("pandas")
    for name in RESULTS:
        table, frame = shown[name].table(), shown[name].to_frame()
        told = sum(text.count("+-") for row in table.texts() for text in row)
        columns = [column for column in frame.columns if column.endswith("error")]
        assert told <= int(frame[columns].notna().sum().sum()), name
    terms = shown["elbo_terms"]
    mean, error = terms.elbo.mean(), terms.elbo.std() / len(terms.elbo) ** 0.5
    row = terms.to_frame().loc["ELBO"]
    assert [row["mean"], row["mean error"]] == pytest.approx([float(mean), float(error)])


def test_a_history_is_a_flat_frame_of_types():
    pytest.importorskip("pandas")
    first = {"epoch": 1, "elbo": -9.0, "kl": {"z1": 1.0}, "guide": "Ladder", "frozen": False}
    second = first | {"epoch": 2, "kl": {"z1": 2.0, "z2": 0.5}, "kept": True, "skipped": 3}
    second |= {"validation": {"kl": {"z1": 4.0}}, "unit_kl": {"z1": [0.5, 1.5]}, "frozen": True}
    frame = History([first, second]).to_frame()
    assert frame.index.tolist() == [1, 2] and frame.index.name == "epoch"
    reals = ["elbo", "kl/z1", "kl/z2", "validation/kl/z1", "unit_kl/z1/0", "unit_kl/z1/1"]
    kinds = dict.fromkeys(reals, "float64") | {"frozen": "bool", "kept": "bool"}
    kinds |= {"skipped": "Int64", "guide": frame["guide"].dtype}
    assert frame.dtypes.to_dict() == kinds
    assert frame["kept"].tolist() == [False, True] and frame["frozen"].tolist() == [False, True]
    assert frame["skipped"].isna().tolist() == [True, False] and frame["skipped"].loc[2] == 3
    assert frame["kl/z1"].tolist() == [1.0, 2.0] and frame["unit_kl/z1/1"].loc[2] == 1.5


def test_the_history_of_a_run_has_nothing_nested(shown):
    pandas = pytest.importorskip("pandas")
    history, frame = shown["history"], shown["history"].to_frame()
    assert len(frame) == len(history) == 7
    for column in frame.columns.difference(["guide"]):
        assert pandas.api.types.is_numeric_dtype(frame[column]), column
    for name in ("kl/z1", "validation/kl/z2", "active_units/z1", "beta", "seconds"):
        assert frame[name].tolist() == history.column(name.replace("/", "."))
