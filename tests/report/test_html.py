"""What notebooks show in place of text: whole HTML that says what the text says, in any theme."""

import re
from html.parser import HTMLParser

import pytest
import torch

from pyro_vae import Trainer, data, diagnostics, guides, handlers, infer, likelihoods, models
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
            "model": vae,
            "guide": guide,
            "vqvae": vq,
            "wrapped": handlers.scale_latents(vae, 0.5),
            "trainer": trainer,
            "history": trainer.history,
        }


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


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_numbers_of_its_text(shown, name):
    page = Page(shown[name]._repr_html_())
    assert shown[name]._repr_html_().startswith("<table>")
    assert page.text.count("+-") == str(shown[name]).count("+-")
    assert numbers(page.text) == numbers(str(shown[name]))


@pytest.mark.parametrize("name", ["model", "guide", "vqvae", "wrapped"])
def test_a_program_is_shown_as_it_is_printed(shown, name):
    page = shown[name]._repr_html_()
    assert Page(page).open == [] and "".join(Page(page).words) == repr(shown[name])
    assert page.startswith("<pre>")


def test_a_history_is_its_last_epochs(shown):
    history = shown["history"]
    rows = re.findall(r"<tr>(.*?)</tr>", history._repr_html_())
    head, *body = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert [row[0] for row in body] == ["3", "4", "5", "6", "7"]
    last = dict(zip(head, body[-1], strict=True))
    assert last["guide"] == "Ladder"
    for key in ("elbo", "kl.z1", "kl.z2", "validation.elbo"):
        assert float(last[key]) == pytest.approx(history.column(key)[-1], abs=0.006, rel=0.05)
    assert "last 5 of 7 epochs" in history._repr_html_()
    assert repr(history) == repr(list(history))


def test_a_trainer_is_its_pair_and_its_last_epochs(shown):
    page = shown["trainer"]._repr_html_()
    assert Page(page).words[0] == repr(shown["trainer"])
    assert shown["history"]._repr_html_() in page
    new = Trainer(shown["model"], shown["guide"])
    assert "".join(Page(new._repr_html_()).words) == repr(new)


def test_histories_of_other_programs_and_empty_ones():
    assert "elbo" not in History([{"epoch": 1}])._repr_html_()
    assert Page(History()._repr_html_()).text.startswith("last 0 of 0")


def test_everything_is_escaped_and_takes_the_colours_of_the_theme(shown):
    for name, value in shown.items():
        page = value._repr_html_()
        assert not re.search(r"color|background|<font|<style", page), name
        assert not re.search(r"<(?:a|first|kind|ladder)>", page), name
