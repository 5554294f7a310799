"""The panel by calls and by widgets, against a trainer that is driven by hand."""

import io
import re
import sys

import matplotlib.pyplot as plt
import pytest
import torch

from pyro_vae import Trainer, data, guides, infer, likelihoods, models, notebook

D = data.load(
    data.Dataset(
        torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round(),
        torch.arange(60) % 3,
    ),
    test_fraction=0.2,
)
GUIDES = {"bottom-up": guides.BottomUp, "ladder": guides.Ladder}


def vae(likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Bernoulli()
    return models.VAE((1, 8, 8), (4, 2), likelihood=likelihood, hidden=(8,), **options)


def panel(**options):
    return notebook.Panel({"Bernoulli": vae()}, GUIDES, D, batch_size=16, **options)


def state(panel):
    return {k: v.clone() for k, v in [*panel.model.state_dict().items(), *panel_guides(panel)]}


def panel_guides(panel):
    return [(f"{n}.{k}", v) for n, g in panel.guides.items() for k, v in g.state_dict().items()]


def test_calls_are_a_trainer_driven_by_hand():
    by_panel = panel(seed=3).train(2).choose(guide="ladder", beta=0.5).train(1)
    by_panel.choose(guide="bottom-up", freeze_model=True).train(1)

    model, built = vae(), {}
    for name, factory in GUIDES.items():
        torch.manual_seed(3)
        built[name] = factory(model)
    trainer = Trainer(model, built["bottom-up"], seed=3)
    fit = {"batch_size": 16, "validation": D.test, "progress": False}
    trainer.fit(D.train, epochs=2, **fit).swap_guide(built["ladder"])
    trainer.beta = 0.5
    trainer.fit(D.train, epochs=1, **fit)
    trainer.swap_guide(built["bottom-up"], freeze_model=True).fit(D.train, epochs=1, **fit)

    def rows(trainer):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]

    assert rows(by_panel.trainer) == rows(trainer)
    assert [row["frozen"] for row in trainer.history] == [False, False, False, True]
    for name, parameter in built["ladder"].state_dict().items():
        assert torch.equal(by_panel.guides["ladder"].state_dict()[name], parameter)


def test_each_model_has_a_run_and_guides_of_its_own():
    both = {"Bernoulli": vae(), "Gaussian": vae(likelihoods.Gaussian(0.5))}
    p = notebook.Panel(both, GUIDES, {"Bernoulli": D, "Gaussian": D}).train(1)
    first = p.trainer
    p.choose(model="Gaussian").train(2)
    assert p.trainer is not first and (len(first.history), len(p.trainer.history)) == (1, 2)
    assert p.guide.model is both["Gaussian"] and p.choose(model="Bernoulli").trainer is first


def test_the_picture_shows_the_chosen_pair_and_changes_nothing():
    p = panel(images=5).train(1).choose(guide="ladder")
    before, rng, stream = state(p), torch.get_rng_state(), p.trainer.state_dict()["random"]["cpu"]
    figure = p.show()
    again = p.show()
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.equal(stream, p.trainer.state_dict()["random"]["cpu"])
    assert all(torch.equal(v, before[k]) for k, v in state(p).items())
    assert [ax.get_title() for ax in figure.axes[1:]] == ["bound", "KL per site", "beta"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "data",
        "reconstruction",
        "sample",
    ]
    drawn = torch.tensor(figure.axes[0].images[0].get_array()[..., 0])
    assert torch.equal(drawn, torch.tensor(again.axes[0].images[0].get_array()[..., 0]))
    expected = infer.reconstruct(p.model, p.guide, D.test.x[:5])
    gap = 1
    for row, value in enumerate([D.test.x[:5], expected]):
        top = gap + row * (8 + gap)
        for i in range(5):
            left = gap + i * (8 + gap)
            cell = drawn[top : top + 8, left : left + 8]
            torch.testing.assert_close(cell, value[i, 0], rtol=0, atol=1e-6)


def test_labels_reach_a_conditional_pair():
    p = notebook.Panel({"given y": vae(condition=3)}, GUIDES, D, images=4).train(1)
    assert len(p.show().axes) == 4 and list(p.compare(5)) == ["bottom-up"]


def test_an_interrupted_epoch_is_told_and_drawn(capsys):
    class Interrupt:
        def on_step_end(self, **kwargs):
            raise KeyboardInterrupt

    p = panel().train(1, callbacks=[Interrupt()])
    assert p.trainer.history[-1]["interrupted"] and "test data" not in p.status
    assert len(p.show().axes) == 4 and "test data" in p.train(1).status


def test_vectors_are_drawn_too():
    d = data.load(torch.randn(40, 6))
    model = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    p = notebook.Panel({"table": model}, {"bottom-up": guides.BottomUp}, d, images=3)
    figure = p.show()
    assert figure.axes[0].images[0].get_array().shape[0] == 3 and "not trained yet" in repr(p)


def test_the_table_has_the_guides_that_were_used():
    p = panel().train(1)
    assert list(p.compare(5)) == ["bottom-up"]
    table = p.choose(guide="ladder").compare(5)
    assert list(table) == ["bottom-up", "ladder"]
    terms = table["ladder"].terms.elbo
    bound = infer.elbo_terms(p.model, p.guide, D.test.x).elbo
    assert abs(float(terms.mean() - bound.mean())) < 1.0


def test_a_bad_choice_leaves_the_choice_as_it_was():
    p = notebook.Panel({"Bernoulli": vae()}, {**GUIDES, "codes": guides.NearestCode}, D)
    for bad, error, message in [
        ({"guide": "laddr"}, ValueError, "did you mean 'ladder'"),
        ({"model": "Poisson"}, ValueError, "model: expected one of Bernoulli, got 'Poisson'"),
        (
            {"guide": "ladder", "beta": -1.0},
            ValueError,
            "beta: expected a finite number >= 0, got -1.0",
        ),
        ({"beta": float("nan")}, ValueError, "beta: expected a finite number >= 0, got nan"),
        ({"guide": "codes", "beta": 2.0}, TypeError, "expected a models.VQVAE"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            p.choose(**bad)
        assert isinstance(p.guide, guides.BottomUp) and p.trainer.beta == 1.0
        assert p.trainer.guide is p.guide
    assert len(p.train(1).trainer.history) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([vae], GUIDES, D), TypeError, "models: expected a mapping from a name, got list"),
        (({"a": None}, {}, D), ValueError, "guides: expected at least one"),
        (({"a": None, "b": None}, GUIDES, {"a": D}), ValueError, "got none for ['b']"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        notebook.Panel(*arguments)


def test_widgets_need_ipywidgets(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match="pip install ipywidgets, or use panel"):
        panel().widgets()


class TestWidgets:
    @pytest.fixture(autouse=True)
    def ipywidgets(self):
        pytest.importorskip("ipywidgets", reason="pip install ipywidgets")

    def controls(self, panel):
        choices, numbers, run, status, picture = panel.widgets().children
        model, guide = choices.children
        beta, alone = numbers.children
        epochs, train = run.children
        return model, guide, beta, alone, epochs, train, status, picture

    def test_each_control_does_what_its_call_does(self):
        p, by_calls = panel(), panel()
        _, guide, beta, alone, epochs, train, status, picture = self.controls(p)
        assert "not trained yet" in status.value
        untrained = bytes(picture.value)
        epochs.value, beta.value = 2, 0.25
        train.click()
        trained = bytes(picture.value)
        guide.value, alone.value = "ladder", True
        swapped = bytes(picture.value)
        epochs.value = 1
        train.click()
        by_calls.choose(beta=0.25).train(2).choose(guide="ladder", freeze_model=True).train(1)
        assert status.value == f"<code>{by_calls.status}</code>"
        assert all(torch.equal(v, state(by_calls)[k]) for k, v in state(p).items())
        pictures = [untrained, trained, swapped, bytes(picture.value)]
        assert len(set(pictures)) == 4
        assert all(plt.imread(io.BytesIO(png)).ndim == 3 for png in pictures)
        assert not plt.get_fignums() and not train.disabled

    def test_a_mistake_is_told_in_the_panel(self):
        p = notebook.Panel({"Bernoulli": vae()}, {**GUIDES, "codes": guides.NearestCode}, D)
        _, guide, *_, train, status, _ = self.controls(p)
        guide.value = "codes"
        assert "TypeError: vqvae: expected a models.VQVAE" in status.value
        train.click()
        assert "TypeError" in status.value and not p.trainer.history
        guide.value = "ladder"
        train.click()
        assert "ladder, beta 1: epoch 1" in status.value

    def test_epochs_are_told_while_training(self):
        p = panel()
        *_, train, status, _ = self.controls(p)
        seen = []
        status.observe(lambda change: seen.append(change["new"]), names="value")
        train.click()
        assert "training" in seen[0] and "epoch 1: elbo" in seen[1] and "test data" in seen[2]
