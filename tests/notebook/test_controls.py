"""The panel by widgets: each control does what its call does, and refuses what that refuses."""

import html
import io
import itertools
import threading
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from test_panel import GUIDES, D, panel, state, vae

from pyro_vae import guides, notebook
from pyro_vae.notebook import watching

ipywidgets = pytest.importorskip("ipywidgets", reason="pip install ipywidgets")


class Shown:
    """The widgets of a panel by what is written on them."""

    def __init__(self, panel):
        found = list(self.inside(panel.widgets()))
        named = {w.description: w for w in found if getattr(w, "description", "")}
        self.model, self.guide, self.beta = named["model"], named["guide"], named["beta"]
        self.alone, self.lr = named["train the guide alone"], named["lr"]
        self.epochs, self.train = named["epochs"], named["Train"]
        self.stop, self.compare = named["Stop"], named["Compare"]
        (self.bar,) = (w for w in found if isinstance(w, ipywidgets.FloatProgress))
        self.status, self.message, self.table = (w for w in found if type(w) is ipywidgets.HTML)
        self.picture, self.map = (w for w in found if isinstance(w, ipywidgets.Image))

    def inside(self, box):
        for child in box.children:
            yield from self.inside(child) if isinstance(child, ipywidgets.Box) else (child,)

    @property
    def text(self):
        return self.status.value + self.message.value

    def click(self, button):
        """Click, and wait until what it began has ended."""
        button.click()
        rest()


def rest():
    for thread in threading.enumerate():
        if thread.name == "panel":
            thread.join(60)
            assert not thread.is_alive()


def test_each_control_does_what_its_call_does():
    p, by_calls = panel(), panel()
    c = Shown(p)
    assert "not trained yet" in c.status.value and c.stop.disabled
    untrained = bytes(c.picture.value)
    c.epochs.value, c.beta.value = 2, 0.25
    c.click(c.train)
    trained, drawn = bytes(c.picture.value), bytes(c.map.value)
    c.guide.value, c.alone.value, c.lr.value = "ladder", True, 0.01
    swapped = bytes(c.picture.value)
    c.epochs.value = 1
    c.click(c.train)
    by_calls.choose(beta=0.25).train(2)
    by_calls.choose(guide="ladder", freeze_model=True, lr=0.01).train(1)
    assert c.status.value == f"<code>{by_calls.status}</code>" and c.message.value == ""
    assert all(torch.equal(v, state(by_calls)[k]) for k, v in state(p).items())
    pictures = [untrained, trained, swapped, bytes(c.picture.value)]
    assert len(set(pictures)) == 4 and bytes(c.map.value) != drawn
    assert all(plt.imread(io.BytesIO(png)).ndim == 3 for png in [*pictures, drawn])
    assert not plt.get_fignums() and not c.train.disabled and c.stop.disabled


def test_calls_move_the_controls():
    p = panel()
    c = Shown(p)
    p.choose(guide="ladder", beta=0.5, freeze_model=True, lr=1e-4).train(1)
    assert (c.guide.value, c.beta.value, c.alone.value, c.lr.value) == ("ladder", 0.5, True, 1e-4)
    assert c.status.value == f"<code>{p.status}</code>" and p.widgets() is p.widgets()


@pytest.mark.parametrize(
    ("control", "bad", "said"),
    [
        ("guide", "codes", "TypeError: vqvae: expected a models.VQVAE"),
        ("beta", -1.0, "ValueError: beta: expected a finite number &gt;= 0, got -1.0"),
        ("beta", float("nan"), "ValueError: beta: expected a finite number &gt;= 0, got nan"),
        ("epochs", 0, "ValueError: epochs: expected a whole number of at least 1, got 0"),
        ("epochs", -3, "ValueError: epochs: expected a whole number of at least 1, got -3"),
    ],
)
def test_a_bad_value_is_told_and_goes_back_to_the_last_good_one(control, bad, said):
    p = notebook.Panel({"Bernoulli": vae()}, {**GUIDES, "codes": guides.NearestCode}, D)
    c = Shown(p)
    good = {"guide": "ladder", "beta": 0.5, "epochs": 2}
    for name, value in good.items():
        getattr(c, name).value = value
    getattr(c, control).value = bad
    assert said in c.message.value
    assert {name: getattr(c, name).value for name in good} == good
    c.click(c.train)
    assert "ladder, beta 0.5: epoch 2" in c.status.value and c.message.value == ""


def test_an_error_of_a_program_is_told():
    def broken(model):
        raise RuntimeError("shapes cannot be multiplied")

    p = notebook.Panel({"Bernoulli": vae()}, {**GUIDES, "broken": broken}, D)
    c = Shown(p)
    c.guide.value = "broken"
    assert "RuntimeError: shapes cannot be multiplied" in c.text and c.guide.value == "bottom-up"
    with torch.no_grad():
        next(p.model.parameters()).fill_(float("nan"))
    c.click(c.train)
    assert "FloatingPointError" in c.message.value and not c.train.disabled


def test_what_cannot_be_measured_is_told():
    class Fragile(guides.BottomUp):
        broken = False

        def forward(self, x, **options):
            if self.broken and len(x) == len(D.test):
                raise RuntimeError("broken since it was trained")
            return super().forward(x, **options)

    p = notebook.Panel({"Bernoulli": vae()}, {"fragile": Fragile, **GUIDES}, D)
    c = Shown(p)
    p.train(1).choose(guide="ladder").train(1)
    p.guides["fragile"].broken = True
    c.guide.value = "fragile"
    assert "RuntimeError: broken since it was trained" in c.message.value
    assert c.guide.value == "fragile" and not c.train.disabled
    c.guide.value = "ladder"
    assert c.message.value == "" and "ladder, beta 1: epoch 2" in c.status.value


def test_epochs_are_told_while_training():
    c = Shown(panel())
    seen = []
    c.epochs.value = 2
    for widget in (c.status, c.message):
        widget.observe(lambda change: seen.append(change["new"]), names="value")
    c.click(c.train)
    told = [text for text in seen if text]
    assert "training" in told[0] and "epoch 1: elbo" in told[1] and "test data" in told[-1]


def test_a_collapse_is_told(capsys):
    c = Shown(panel(beta=1e4, lr=0.01))
    c.epochs.value = 30
    c.click(c.train)
    said = capsys.readouterr().out
    assert said.startswith("latent variables collapse: KL in nats after epoch 30: z")
    assert html.escape(said.strip()) in c.message.value


def test_stop_ends_the_run_after_its_step():
    p = panel()
    c = Shown(p)
    begun = threading.Event()
    c.bar.observe(lambda change: begun.set(), names="value")
    c.epochs.value = 10_000
    c.train.click()
    assert begun.wait(60) and c.train.disabled and c.guide.disabled and not c.stop.disabled
    assert " of 10000), step " in c.message.value and " left" in c.message.value
    c.click(c.stop)
    step, last = p.trainer.step, p.trainer.history[-1]
    assert last["epoch"] == (step + 2) // 3 < 10_000
    # Not where it came while the epoch was measured
    assert last.get("interrupted", False) == (" in part, elbo" in c.status.value)
    assert not c.train.disabled and c.stop.disabled and c.bar.value == 0.0
    assert p.train(1).trainer.step == step + 3


def test_a_call_stops_what_a_button_began():
    p = panel()
    c = Shown(p)
    begun = threading.Event()
    c.bar.observe(lambda change: begun.set(), names="value")
    c.epochs.value = 10_000
    c.train.click()
    assert begun.wait(60)
    c.lr.value = 1e-4
    c.train.click()  # disabled by now: it begins nothing
    step = p.stop().trainer.step
    assert p.trainer.lr == 1e-4 and p.choose(beta=2.0).train(1).trainer.step == step + 3
    rest()


def test_the_table_of_all_guides_is_shown():
    p = panel()
    c = Shown(p)
    c.guide.value = "ladder"
    c.click(c.compare)
    assert c.message.value == "" and not c.train.disabled
    for name, result in p.compare().items():
        assert f"<td>{name}</td><td>{result.terms.elbo.mean():.2f} " in c.table.value


def test_progress_is_told_a_few_times_a_second(monkeypatch):
    """Each step takes a tenth of a second here: 6 steps in two epochs, told at 0.3 and 0.6 s."""
    told = []
    listener = SimpleNamespace(
        progress=lambda done, text: told.append((done, text)),
        epoch=lambda row: None,
        follow=lambda: None,
    )
    clock = (number / 10 for number in itertools.count())
    monkeypatch.setattr(watching, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    p = panel()
    p.trainer.fit(
        D.train, batch_size=16, epochs=2, progress=False, callbacks=[watching.Watch(listener)]
    )
    assert [done for done, _ in told] == [0.5, 1.0]
    assert told[0][1].startswith("epoch 1 (1 of 2), step 3 of 3, elbo -")
    assert told[0][1].endswith(", about 0 s left")


@pytest.mark.parametrize(
    ("seconds", "left"),
    [(30, "about 15 s left"), (600, "about 5 min left"), (16000, "about 2 h 13 min left")],
)
def test_the_time_that_is_left_is_estimated(seconds, left):
    class Look:
        def on_step_end(self, trainer, **kwargs):
            if trainer.step == 4:
                found.append(watching.progress(trainer, seconds))

    found = []
    panel().train(2, callbacks=[Look()])
    ((done, text),) = found
    assert done == pytest.approx(4 / 6) and text.startswith("epoch 2 (2 of 2), step 1 of 3, elbo ")
    assert text.endswith(left)


def test_a_panel_as_the_value_of_a_cell_is_its_controls():
    p = panel()
    shown = p._repr_mimebundle_(include=None, exclude=None)
    view = shown["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == p.widgets().model_id and shown["text/plain"] == repr(p)
