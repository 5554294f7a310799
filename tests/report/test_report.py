import base64
import dataclasses
import html
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.colors import to_rgba
from PIL import Image
from torch import nn

from pyro_vae import Trainer, data, diagnostics, guides, likelihoods, models, plots, schedules
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.infer import Budget
from pyro_vae.report import render, sections, write_report
from pyro_vae.report.pictures import DARK, darken

VOID = {"meta", "img", "br", "source"}
COMMON = ["Training", "Reconstructions", "Interpolations", "Traversals"]


class Page(HTMLParser):
    """Checks that tags nest, and collects headings, images and attributes that load something."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.images, self.loaded, self.ids = [], [], [], [], set()
        self.tags, self.dark = set(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.ids.add(attributes.get("id"))
        if tag == "img":
            kind, _, content = attributes["src"].partition(",")
            assert kind == "data:image/png;base64" and attributes["alt"]
            self.images.append((int(attributes["width"]), base64.b64decode(content)))
        if tag == "source":
            assert attributes["media"] == "(prefers-color-scheme: dark)"
            self.dark.append(base64.b64decode(attributes["srcset"].partition(",")[2]))
        self.loaded += [attributes[k] for k in ("href", "src", "srcset") if k in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "h2":
            self.headings.append(text)


@pytest.fixture(scope="module")
def digits():
    splits = data.load("digits")
    return DataSplits("digits", splits.train[:64], splits.test[:24])


def fitted(splits, guide=guides.BottomUp, likelihood=None, epochs=2, **arguments):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Bernoulli()
    vae = models.VAE(splits.event_shape, likelihood=likelihood, hidden=(8,), **arguments)
    trainer = Trainer(vae, guide(vae), beta=schedules.WarmUp(epochs=1), seed=0)
    if epochs:
        trainer.fit(splits.train, validation=splits.test, epochs=epochs, progress=False)
    return trainer


@pytest.fixture
def words(monkeypatch):
    """Pages without pictures, which take longest, for what is told beside them."""
    monkeypatch.setattr("pyro_vae.report.page.SECTIONS", ())


def vectors(n=40):
    return data.load(torch.randn(n, 5))


@pytest.fixture(scope="module")
def page(digits, tmp_path_factory):
    trainer = fitted(digits, latents=3)
    evaluation = diagnostics.evaluate(
        trainer.model, trainer.guide, digits.test, importance_samples=20
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, trainer, digits, evaluation=evaluation, command="pyro-vae <train> & 'x'")
    return path.read_text(), evaluation


def test_the_page_needs_nothing_but_itself(page):
    text, _ = page
    parsed = Page(text)
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert "@import" not in text and not parsed.tags & {"script", "link", "iframe", "object"}
    for target in parsed.loaded:
        assert target.startswith("data:image/png;base64,") or target[1:] in parsed.ids


def test_images_decode_to_pictures(page):
    parsed = Page(page[0])
    # One per section, but for the evaluation and the three panels of the curves
    assert len(parsed.images) == 9
    for width, content in parsed.images:
        assert b"matplotlib" not in content
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert picture.size[0] / width == pytest.approx(1.5, rel=0.01)
            low, high = picture.convert("L").getextrema()
            assert low < 100 and high == 255


def test_every_picture_has_a_form_for_dark_screens(page):
    parsed = Page(page[0])
    assert len(parsed.dark) == len(parsed.images)
    for (_, light), dark in zip(parsed.images, parsed.dark, strict=True):
        with Image.open(io.BytesIO(light)) as a, Image.open(io.BytesIO(dark)) as b:
            assert a.size == b.size
            corner = b.convert("RGB").getpixel((0, 0))
            assert "#" + bytes(corner).hex() == DARK[1]
            assert b.convert("L").getextrema()[1] > 150


def test_black_and_white_become_those_of_a_dark_page():
    figure, ax = plt.subplots()
    (line,) = ax.plot([0, 1], color="#3f90da")
    (dim,) = ax.plot([0, 1], color="#bd1f01")
    text = ax.set_xlabel("words")
    note = ax.text(0, 0, "words", bbox={"facecolor": "white"})
    mesh = ax.pcolormesh(torch.rand(3, 3), cmap="Blues")
    points = ax.scatter([0], [0], color="0.75")
    ax.legend([line], ["line"])
    darken(figure)
    ink, card = map(to_rgba, DARK)
    assert to_rgba(text.get_color()) == to_rgba(note.get_color()) == ink
    assert figure.get_facecolor() == ax.get_facecolor() == card
    assert note.get_bbox_patch().get_facecolor() == card
    assert ax.get_legend().get_frame().get_facecolor()[:3] == card[:3]
    assert ax.spines["left"].get_edgecolor() == ink
    assert to_rgba(line.get_color()) == to_rgba("#3f90da")
    assert min(to_rgba(dim.get_color())) > 0.3
    assert mesh.get_cmap()(0.0) == card
    assert 0.2 < points.get_facecolor()[0, 0] < 0.5
    figure.canvas.draw()
    plt.close(figure)


def test_panels_stack_and_tables_scroll(page):
    text, evaluation = page
    assert f'<div class="scroll">{evaluation.to_html()}</div>' in text
    figures = text.split("<figure>")[1:]
    assert [part.split("</figure>")[0].count("<picture>") for part in figures][:2] == [3, 1]
    # What has no words may be as small as it will
    assert figures[1].count('style="min-width: 0px"') == 1
    assert "flex-wrap: wrap" in text and "width=device-width" in text


def test_what_took_how_long(page):
    cost = re.search(r"<th>cost</th><td>(.*?)</td>", page[0])[1]
    parts = ("training", "an epoch of it", "importance sampling", "pictures")
    assert re.fullmatch(", ".join(rf"{part} \d+ (s|min)" for part in parts), cost)


def test_the_page_holds_the_numbers_of_the_evaluation(page):
    text, evaluation = page
    cells = html.unescape(text)
    for name, mean, *_ in evaluation.rows():
        assert f">{name}<" in cells
        assert f">{mean:.2f}<" in cells or abs(mean) < 0.1
    assert evaluation.to_html() in text


def test_the_page_tells_what_was_trained(page):
    text = html.unescape(page[0])
    assert "p(x, z1) = p(x|z1) p(z1)" in text and "q(z1|x) = q(z1|x)" in text
    assert "2 epochs, 2 steps of Adam, learning rate 0.001" in text
    assert "WarmUp(epochs=1" in text


def test_everything_is_escaped(page, digits, tmp_path):
    assert "pyro-vae &lt;train&gt; &amp; &#x27;x&#x27;" in page[0]
    nasty = "<script>alert('&')</script>"
    names = [nasty] * 10
    splits = DataSplits(nasty, digits.train.replace(names=names), digits.test.replace(names=names))
    write_report(tmp_path / "r.html", fitted(splits, latents=2), splits, command=nasty)
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text
    assert text.count(html.escape(nasty)) >= 3 and "script" not in Page(text).tags


@pytest.mark.parametrize(
    ("make", "headings"),
    [
        (lambda d: (fitted(d, latents=3), d), {"Samples", "Latent map", "Least likely test data"}),
        (
            lambda d: (fitted(d, latents=2, condition=10), d),
            {"Samples by label", "Latent map", "Latent grid", "Least likely test data"},
        ),
        (
            lambda d: (fitted(d, latents=(3, 2)), d),
            {"Samples", "Latent map", "Least likely test data"},
        ),
        (lambda d: (fitted(d, guides.Delta, latents=3), d), {"Samples", "Latent map"}),
        (lambda d: (fitted(d, latents=1), d), {"Samples", "Least likely test data"}),
        (
            lambda _: (fitted(v := vectors(), likelihood=likelihoods.Gaussian(), latents=2), v),
            {"Samples", "Latent map", "Least likely test data"},
        ),
    ],
    ids=["plain", "conditional", "hierarchical", "point mass", "one unit", "vectors"],
)
def test_sections_are_those_that_make_sense(make, headings, digits, tmp_path):
    trainer, splits = make(digits)
    write_report(tmp_path / "r.html", trainer, splits)
    parsed = Page((tmp_path / "r.html").read_text())
    assert set(parsed.headings) == headings | set(COMMON)
    assert len(parsed.headings) == len(set(parsed.headings))


def test_a_traversal_of_both_ends_of_a_hierarchy(digits, monkeypatch, tmp_path):
    sites, traversals = [], plots.traversals
    monkeypatch.setattr(
        plots,
        "traversals",
        lambda *a, site, **k: (sites.append(site), traversals(*a, site=site, **k))[1],
    )
    write_report(tmp_path / "r.html", fitted(digits, latents=(4, 3, 2)), digits)
    assert sites == ["z1", "z3"]


def test_without_training(digits, tmp_path):
    write_report(tmp_path / "r.html", fitted(digits, latents=2, epochs=0), digits)
    text = (tmp_path / "r.html").read_text()
    assert "Not trained" in text and "Training" not in Page(text).headings


def test_one_test_datum(tmp_path):
    splits = data.load(torch.randn(5, 3))
    assert len(splits.test) == 1
    trainer = fitted(splits, likelihood=likelihoods.Gaussian(), latents=3)
    write_report(tmp_path / "r.html", trainer, splits)
    assert "Interpolations" not in Page((tmp_path / "r.html").read_text()).headings


def test_programs_of_your_own(tmp_path):
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            code = pyro.sample("code", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("pixels", dist.Normal(decoder(code), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("code", dist.Normal(encoder(x), 0.5).to_event(1))

    splits = vectors()
    trainer = Trainer(model, guide, seed=0).fit(splits.train, epochs=1, progress=False)
    write_report(tmp_path / "r.html", trainer, splits)
    text = (tmp_path / "r.html").read_text()
    assert "<h1>tensor: model with guide</h1>" in text
    assert {*COMMON, "Samples", "Latent map"} <= set(Page(text).headings)


def test_no_state_changes_and_the_same_file_again(digits, tmp_path, monkeypatch):
    # But for the time that it took
    monkeypatch.setattr("pyro_vae.report.page.time", SimpleNamespace(perf_counter=lambda: 0.0))
    trainer = fitted(digits, latents=2)
    dynamic = DataSplits("digits", digits.train, digits.test.replace(binarize="dynamic"))
    parameters = [p.clone() for m in trainer.modules() for p in m.parameters()]
    modes, random = [m.training for m in trainer.modules()], torch.get_rng_state()
    write_report(tmp_path / "a.html", trainer, dynamic)
    assert torch.equal(torch.get_rng_state(), random)
    torch.rand(3)
    write_report(tmp_path / "b.html", trainer, dynamic)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert [m.training for m in trainer.modules()] == modes
    after = [p for m in trainer.modules() for p in m.parameters()]
    assert all(map(torch.equal, parameters, after))
    assert not plt.get_fignums()


def test_dynamic_test_data_are_binarised_once(tmp_path, monkeypatch):
    seen = {}
    for name in ("reconstructions", "outliers"):
        monkeypatch.setattr(plots, name, _keeping(seen, name, getattr(plots, name)))
    grey = Dataset(torch.full((20, 1, 8, 8), 0.5), binarize="dynamic")
    splits = DataSplits("grey", grey, grey)
    write_report(tmp_path / "r.html", fitted(splits, latents=2), splits)
    x = seen["outliers"].x
    assert set(x.unique().tolist()) == {0.0, 1.0} and seen["outliers"].binarize is None
    assert torch.equal(seen["reconstructions"], x[:16])


def _keeping(seen, name, draw):
    def kept(model, guide, x, **kwargs):
        seen[name] = x
        return draw(model, guide, x, **kwargs)

    return kept


def test_labels_take_turns(digits):
    y = torch.tensor([1, 1, 0, 1, 2, 0])
    test = Dataset(torch.arange(6.0)[:, None], y)
    run = sections.Run(trainer=None, data=digits, test=test, sites=None)
    assert run.taking_turns().x[:, 0].tolist() == [2, 0, 4, 5, 1, 3]


def test_notes(words, digits, tmp_path):
    trainer = fitted(digits, latents=2)
    trainer.history[-1]["interrupted"] = True
    evaluation = diagnostics.evaluate(
        trainer.model, trainer.guide, digits.test, importance_samples=20
    )
    evaluation.importance.pareto_k.fill_(0.9)
    write_report(tmp_path / "r.html", trainer, digits, evaluation=evaluation)
    text = (tmp_path / "r.html").read_text()
    assert "Training was interrupted in epoch 2." in text
    assert "100% of the data have a Pareto k above 0.7" in text


def estimated_twice(trainer, splits, ahead):
    """An evaluation by both methods, the annealed log p(x) ``ahead`` of a distrusted other."""
    found = diagnostics.evaluate(
        trainer.model,
        trainer.guide,
        splits.test,
        importance_samples=Budget(seconds=0),
        method="both",
        temperatures=3,
        chains=2,
        progress=False,
    )
    found.importance.pareto_k.fill_(0.9)
    found.annealed.log_likelihood.copy_(found.importance.log_likelihood + ahead)
    return found


@pytest.mark.parametrize(
    ("ahead", "worth"),
    [(2.0, "needs no good guide; it is higher by 2.00 +- "), (-1.0, "is no higher: more temper")],
)
def test_annealed_numbers_are_told_beside_those_of_importance_sampling(
    ahead, worth, words, digits, tmp_path
):
    trainer = fitted(digits, latents=2)
    found = estimated_twice(trainer, digits, ahead)
    write_report(tmp_path / "r.html", trainer, digits, evaluation=found)
    text = html.unescape((tmp_path / "r.html").read_text())
    assert (
        "which is estimated by importance sampling (25 draws per datum, as many as time allowed; "
        f"{found.importance.seconds:.0f} s) and by annealed importance sampling (2 chains of 3 "
        f"temperatures per datum; {found.annealed.seconds:.0f} s). Both are rather too low"
    ) in text
    (note,) = re.findall(r'<p class="note">(log p.*?)</p>', text)
    start = "log p(x) by importance sampling is probably too low: 100% of the data have a Pareto k"
    assert note.startswith(f"{start} above 0.7. The annealed value {worth}")
    assert ">time of importance sampling<" in text and ">time of annealing<" in text


def test_annealed_numbers_alone_have_no_pareto_k(words, digits, tmp_path):
    trainer = fitted(digits, latents=2)
    found = dataclasses.replace(estimated_twice(trainer, digits, 0.0), importance=None)
    write_report(tmp_path / "r.html", trainer, digits, evaluation=found)
    text = (tmp_path / "r.html").read_text()
    assert "log p(x), which is estimated by annealed importance sampling (2 chains" in text
    assert "Pareto" not in text and "Both are" not in text


@pytest.mark.parametrize(
    ("stopped_by", "told"),
    [
        ("samples", ""),
        ("error", ", until their error was small"),
        ("time", ", as many as time al"),
    ],
)
def test_what_ended_importance_sampling_is_told(stopped_by, told, words, page, digits, tmp_path):
    _, evaluation = page
    importance = dataclasses.replace(evaluation.importance, stopped_by=stopped_by, seconds=12.3)
    evaluation = dataclasses.replace(evaluation, importance=importance)
    write_report(tmp_path / "r.html", fitted(digits, latents=3), digits, evaluation=evaluation)
    text = (tmp_path / "r.html").read_text()
    assert f"by importance sampling (20 draws per datum{told}" in text and "; 12 s)." in text


def test_a_picture_that_cannot_be_drawn_is_a_note_in_its_place(digits, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("<broken>")

    monkeypatch.setattr(plots, "latent_scatter", broken)
    with pytest.warns(UserWarning, match="report: no latent map: <broken>"):
        write_report(tmp_path / "r.html", fitted(digits, latents=2), digits)
    text = (tmp_path / "r.html").read_text()
    assert "Could not be drawn: &lt;broken&gt;" in text
    assert {*COMMON, "Latent map"} <= set(Page(text).headings)


def test_banners_of_collapse_and_of_a_pair_that_is_beaten(words, digits, tmp_path):
    trainer = fitted(digits, latents=(3, 2), epochs=4)
    trainer.history[-1]["validation"]["kl"] = {"z1": 3.0, "z2": 0.012}
    evaluation = diagnostics.evaluate(
        trainer.model, trainer.guide, digits.test, reference=digits.train, importance_samples=0
    )
    write_report(tmp_path / "r.html", trainer, digits, evaluation=evaluation)
    text = (tmp_path / "r.html").read_text()
    notes = [part.split("</p>")[0] for part in text.split('<p class="note">')[1:]]
    assert notes[0].startswith(
        "Some latent variables collapse: KL in nats after epoch 4: z2 0.012"
    )
    assert notes[1] == html.escape(evaluation.remark) + "."
    assert text.count(html.escape(evaluation.remark)) == 1
    assert "independent Bernoulli by " in notes[1]
    assert "Fitted to the training data, for comparison: independent Bernoulli" in text


def test_the_kept_epoch_is_told(words, digits, tmp_path):
    trainer = fitted(digits, latents=2)
    trainer.history[0]["kept"] = True
    write_report(tmp_path / "r.html", trainer, digits)
    assert "epoch 1, the best on held-out data, was kept" in (tmp_path / "r.html").read_text()
    trainer.history[-1]["kept"] = False
    write_report(tmp_path / "s.html", trainer, digits)
    told = "what the run began with, the best on held-out data, was kept"
    assert told in (tmp_path / "s.html").read_text()


def test_an_old_report_stays_when_a_new_one_fails(digits, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")

    def broken(*args, **kwargs):
        raise ValueError("broken")

    monkeypatch.setattr("pyro_vae.report.page.few", broken)
    with pytest.raises(ValueError, match="broken"):
        write_report(path, fitted(digits, latents=2), digits)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("condition", [0, 10])
def test_any_class_name_is_shown_as_it_is(condition, digits, tmp_path):
    names = ["2$ or 3$", r"a\$b\$", "half \ud800", "$x^{$", "$"] * 2
    name = ", ".join(names)
    splits = DataSplits(name, *(d.replace(names=names) for d in (digits.train, digits.test)))
    trainer = fitted(splits, latents=2, condition=condition)
    write_report(tmp_path / "r.html", trainer, splits)
    shown = name.replace("\ud800", r"\ud800")
    assert f"<h1>{html.escape(shown)}: VAE" in (tmp_path / "r.html").read_text()
    ax = plots.latent_scatter(trainer.guide, splits.test)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert ", ".join(labels) == shown.replace("$", r"\$")
    ax.figure.canvas.draw()


def test_errors(words, digits, tmp_path):
    trainer = fitted(digits, latents=2)
    with pytest.raises(FileNotFoundError, match="folder"):
        write_report(tmp_path / "absent" / "r.html", trainer, digits)
    with pytest.raises(ValueError, match="expected shape"):
        write_report(tmp_path / "r.html", trainer, vectors())
    assert not list(tmp_path.iterdir())


def test_render_closes_the_figure_and_knows_formats():
    figure, ax = plt.subplots(figsize=(2, 1))
    with Image.open(io.BytesIO(render(ax))) as picture:
        assert (picture.format, picture.size) == ("PNG", (288, 144))
    assert not plt.fignum_exists(figure.number)
    assert render(plt.subplots()[0], "pdf").startswith(b"%PDF")
    with pytest.raises(ValueError, match="xyz"):
        render(plt.subplots()[0], "xyz")
    assert not plt.get_fignums()
