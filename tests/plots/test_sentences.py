"""Text is drawn as lines, and written onto the page of a report and into a panel."""

import pytest
import torch
from drawn import texts

from pyro_vae import Trainer, data, diagnostics, guides, infer, likelihoods, models, plots
from pyro_vae.notebook import Panel
from pyro_vae.plots.sentences import lines_axes, lines_of
from pyro_vae.report import write_report

LINES = ["a cat sees it", "the dog sees it", "a dog is $ 5 & <b>", "the cat is here"] * 5


@pytest.fixture(scope="module")
def text():
    return data.load(LINES, kind="tokens", vocabulary="words", test_fraction=0.2)


@pytest.fixture
def pair(text):
    torch.manual_seed(0)
    likelihood = likelihoods.Tokens(text.vocabulary)
    decoder = models.SequenceDecoder(text.event_shape, 3, outputs=len(text.vocabulary), width=8)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    vae = models.VAE(text.event_shape, 3, likelihood=likelihood, decoder=decoder)
    return vae, guides.BottomUp(vae)


@pytest.fixture(scope="module")
def translation():
    torch.manual_seed(0)
    languages = data.language_pair(60, 10)
    model = models.Translation(languages.source, languages.target, latents=2, width=8)
    return languages, model, guides.BottomUp(model)


def lines(drawn):
    return lines_of(getattr(drawn, "figure", drawn))


def test_lines_stand_beside_what_they_are():
    ax = lines_axes(["a cat", "costs $5", "word " * 40], ["0", "$", "long"])
    assert lines_of(ax.figure)[:2] == [("0", "a cat"), ("$", "costs $5")]
    assert ax.texts[2].get_text().count("\n") == 2
    tops = [t.get_position()[1] for t in ax.texts]
    assert tops == [0.5, 1.5, 2.5] and ax.get_ylim() == (5, 0)
    apart = [t.get_position()[1] for t in lines_axes(["a"] * 4, ["b"] * 4, block=2).texts]
    assert apart[1] - apart[0] == 1 < apart[2] - apart[1]


def test_lines_are_small_where_there_is_little_room():
    from matplotlib.figure import Figure

    large, small = (Figure((w, w)).subplots() for w in (9, 1))
    sizes = [lines_axes(["a cat"] * 20, ["0"] * 20, ax=ax).texts[0] for ax in (large, small)]
    assert sizes[0].get_fontsize() > 2 * sizes[1].get_fontsize()


def test_lines_are_known_as_they_were():
    given = ["ACGT" * 40, "a  b ", "", " \tc"]
    ax = lines_axes(given, ["0", "1", "2", "3"])
    assert ax.texts[0].get_text().count("\n") == 1
    assert [line for _, line in lines_of(ax.figure)] == given


def test_reconstructions_are_the_lines_of_infer(text, pair):
    x = text.test.x[:3]
    found = lines(plots.reconstructions(*pair, x))
    again = text.vocabulary.text(infer.reconstruct(*pair, x))
    expected = [
        row
        for i, (line, other) in enumerate(zip(text.vocabulary.text(x), again, strict=True))
        for row in ((f"{i}  data", line), ("reconstruction", other))
    ]
    assert found == expected


def test_samples_interpolations_traversals_and_outliers_are_lines(text, pair):
    vae, guide = pair
    x, read = text.test.x, text.vocabulary.text
    torch.manual_seed(1)
    found = lines(plots.samples(vae, 5))
    torch.manual_seed(1)
    drawn = read(vae.sample(5, mean=True))
    assert found == [(str(i), line) for i, line in enumerate(drawn)]
    between = read(infer.interpolate(vae, guide, x[0], x[1], steps=3))
    found = lines(plots.interpolation(vae, guide, x[0], x[1], steps=3))
    assert found == [*zip(("0", "0.5", "1"), between, strict=True)]
    along = infer.traverse(vae, guide, x[0], site="z1", dims=[1], values=torch.tensor([-9.0, 9.0]))
    found = lines(plots.traversals(vae, guide, x[0], dims=[1], values=[-9, 9]))
    assert [line for _, line in found] == read(along[0])
    torch.manual_seed(0)
    found = lines(plots.outliers(vae, guide, text.test, n=2, importance_samples=2))
    assert len(found) == 2 and all("nats  row" in label for label, _ in found)
    assert len(lines(plots.layer_samples(vae, "z1", rows=2, columns=2))) == 4


def test_a_conditional_model_has_lines_by_label(text):
    likelihood = likelihoods.Tokens(text.vocabulary)
    vae = models.VAE(text.event_shape, 2, likelihood=likelihood, condition=2)
    found = lines(plots.conditional(vae, n=2, labels=("short", "long")))
    assert [label for label, _ in found] == ["short", "", "long", ""]


@pytest.mark.parametrize("draw", [plots.uncertainty, plots.denoising, plots.latent_grid])
def test_pictures_that_text_has_not_are_refused(text, pair, draw):
    vae, guide = pair
    calls = {
        plots.uncertainty: lambda: draw(vae, guide, text.test.x),
        plots.denoising: lambda: draw(vae, guide, text.test.x, 0.1),
        plots.latent_grid: lambda: draw(vae, like=text.test.x),
    }
    with pytest.raises(ValueError, match="model: expected one of data that are drawn, got one of"):
        calls[draw]()


def test_translations_are_written_below_their_sources(translation):
    languages, model, guide = translation
    some = languages.test[:2]
    source, target = model.sides(some)
    found = lines(plots.reconstructions(model, guide, some))
    assert [label for label, _ in found[:4]] == ["0  source", "target", "given z", "translation"]
    z = infer.encode(guide, some).mean["z1"]
    columns = (
        languages.source.text(source),
        languages.target.text(target),
        languages.target.text(model.translate(source, z=z)),
        languages.target.text(model.translate(source)),
    )
    assert [line for _, line in found] == [s for row in zip(*columns, strict=True) for s in row]
    drawn = lines(plots.samples(model, 3, like=some))
    sources = [line for label, line in drawn if label.endswith("source")]
    assert sources == [columns[0][i] for i in (0, 1, 0)]
    for refused in (plots.interpolation, plots.outliers):
        with pytest.raises(ValueError, match="got a Translation, of pairs"):
            refused(model, guide, some, *([some] if refused is plots.interpolation else []))


def test_a_report_has_lines_in_place_of_pictures(text, pair, tmp_path):
    trainer = Trainer(*pair, seed=0).fit(text.train, epochs=1, progress=False)
    write_report(tmp_path / "report.html", trainer, text)
    page = (tmp_path / "report.html").read_text()
    assert page.count('<table class="lines">') == 5 and "Could not be drawn" not in page
    known = text.vocabulary.text(text.test.x[:1])[0].split()[0]
    assert f"</th><td>{known} " in page


def test_a_report_of_translations(translation, tmp_path):
    languages, model, guide = translation
    trainer = Trainer(model, guide, seed=0).fit(languages.train, epochs=1, progress=False)
    evaluation = diagnostics.evaluate(model, guide, languages.test, importance_samples=0)
    write_report(tmp_path / "report.html", trainer, languages, evaluation=evaluation)
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Training</h2>" in page and "<h2>Translations</h2>" in page
    line = languages.source.text(model.sides(languages.test)[0])[0]
    assert f"<tr class=first><th>0  source</th><td>{line}</td>" in page
    # A source begins what belongs together
    assert page.count("class=first") == page.count("  source</th>") > 1


def test_a_panel_shows_lines(text, pair, translation):
    panel = Panel({"text": pair[0]}, {"bottom-up": guides.BottomUp}, text)
    ax = panel.show().axes[0]
    assert texts(ax.get_yticklabels())[:3] == ["0  data", "reconstruction", "sample"]
    assert ax.texts[0].get_text().replace("\\", "") in LINES
    languages, model, _ = translation
    panel = Panel({"text": model}, {"bottom-up": guides.BottomUp}, languages.train)
    assert texts(panel.show().axes[0].get_yticklabels())[1] == "target"
