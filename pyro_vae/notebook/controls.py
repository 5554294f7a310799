"""The controls of a panel, as widgets of a notebook."""

from __future__ import annotations

import contextlib
import html
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets
from IPython import get_ipython
from matplotlib.figure import Figure

from ..callbacks.collapse import complaint, ended_without
from ..ground.arguments import whole
from ..ground.turns import turn
from ..report import render
from . import pictures
from .views import Views

_EPOCHS, _COMPARED = 10, 500
# While training, drawing may take this share of the time
_SHARE_FOR_PICTURES = 0.1
_NUMBER = ipywidgets.Layout(width="12em")


class Controls:
    """Widgets that call a panel, and show what it says.

    Handlers may run in the thread of the cells or in another one, as the front end decides; a
    run that Train begins has a thread of its own. Each waits for its ``turn``.
    """

    def __init__(self, panel: Views) -> None:
        self.panel, self._cell = panel, contextlib.ExitStack()
        self._following, self._epochs = False, _EPOCHS
        # When pictures were drawn, the seconds that they took, and what of
        self._drawn: tuple[float, float, Any] = 0.0, 0.0, None
        chosen = panel.chosen
        self.model = _dropdown("model", panel.models, chosen["model"])
        self.guide = _dropdown("guide", panel.factories, chosen["guide"])
        self.beta = ipywidgets.FloatText(description="beta", step=0.25, layout=_NUMBER)
        self.freeze_model = ipywidgets.Checkbox(
            description="train the guide alone", indent=False, layout={"margin": "0 0 0 2em"}
        )
        self.lr = ipywidgets.FloatLogSlider(
            description="lr",
            min=-6,
            max=0,
            step=0.1,
            readout_format=".1e",
            continuous_update=False,
        )
        self.epochs = ipywidgets.IntText(description="epochs", value=_EPOCHS, layout=_NUMBER)
        self.train = ipywidgets.Button(description="Train", button_style="primary", icon="play")
        self.stop = ipywidgets.Button(description="Stop", icon="stop", disabled=True)
        self.compare = ipywidgets.Button(description="Compare", icon="table")
        self.bar = ipywidgets.FloatProgress(min=0.0, max=1.0, layout={"width": "12em"})
        self.status, self.message, self.table = (ipywidgets.HTML() for _ in range(3))
        self.overview, self.map = (ipywidgets.Image(format="png") for _ in range(2))
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox([self.model, self.guide], layout=row),
                ipywidgets.HBox([self.beta, self.lr, self.freeze_model], layout=row),
                ipywidgets.HBox(
                    [self.epochs, self.train, self.stop, self.compare, self.bar], layout=row
                ),
                self.status,
                self.message,
                ipywidgets.HBox([self.overview, self.map], layout=row),
                self.table,
            ]
        )
        for name in chosen:
            getattr(self, name).observe(lambda change, n=name: self._choose(n, change), "value")
        self.epochs.observe(self._count, "value")
        self.train.on_click(lambda _: self._begin("training ...", self._train))
        self.stop.on_click(self._stop)
        self.compare.on_click(lambda _: self._begin("comparing ...", self._compare))
        self._rest_while_a_cell_runs()
        self.follow()

    # What a person does

    def _choose(self, name: str, change: Mapping[str, Any]) -> None:
        with turn:
            if not self._following:
                self._try(lambda: self.panel.choose(**{name: change["new"]}))

    def _count(self, change: Mapping[str, Any]) -> None:
        """Take the number of epochs, or put the last good one back."""
        try:
            self._epochs = whole("epochs", change["new"])
            self.tell("")
        except ValueError as error:
            self.epochs.value = self._epochs
            self.tell(error)

    def _try(self, act: Callable[[], Any]) -> None:
        """Do it; what is refused is told, and the controls are as before."""
        try:
            act()
        # An error in a handler is shown nowhere else
        except Exception as error:
            self.follow()
            self.tell(error)

    def _begin(self, text: str, act: Callable[[], Any]) -> None:
        """Do it in a thread, where Stop is heard meanwhile."""
        if self.train.disabled:
            return
        self.tell(text)
        self._busy(True)
        thread = threading.Thread(target=self._work, args=(act,), name="panel", daemon=True)
        self.panel._thread = thread
        thread.start()

    def _work(self, act: Callable[[], Any]) -> None:
        try:
            self._try(act)
        finally:
            self._busy(False)

    def _train(self) -> None:
        self.stop.disabled = False
        trainer = self.panel.train(self._epochs).trainer
        # What ``fit`` says at its end, which from a thread nobody would read
        lost = ended_without(trainer.history, trainer.steps.points)
        if lost:
            self.tell(complaint(trainer.history[-1], lost))

    def _compare(self) -> None:
        found = self.panel.compare(most=_COMPARED)
        # As JupyterLab shows tables of cells
        self.table.value = f'<div class="jp-RenderedHTMLCommon">{found._repr_html_()}</div>'
        self.tell("")

    def _stop(self, button: Any) -> None:
        self.panel._ask_to_stop()

    # What the panel says

    def tell(self, text: str | Exception) -> None:
        """Say something below the status."""
        if isinstance(text, Exception):
            text = f"{type(text).__name__}: {text}"
        self.message.value = text and f"<code>{html.escape(text)}</code>"

    def progress(self, done: float, text: str) -> None:
        """How far the run is."""
        self._busy(True)
        self.stop.disabled, self.bar.value = False, done
        self.tell(text)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """What an epoch found, and pictures where they do not hold up the run."""
        self._say(f"epoch {row['epoch']}: elbo {row['elbo']:.2f} nats per datum")
        ended, took, _ = self._drawn
        if took < _SHARE_FOR_PICTURES * (time.perf_counter() - ended):
            self._show(self._draw)

    def follow(self) -> None:
        """Show what is chosen, and what it makes of the data."""
        with turn:
            self._following = True
            try:
                for name, value in self.panel.chosen.items():
                    getattr(self, name).value = value
            finally:
                self._following = False
            if self.panel._watch is None:
                self.bar.value = 0.0
                self._busy(False)
                self.tell("")
                self._show(lambda: self._say(self.panel.status))
                if self._drawn[2] != self._seen():
                    self._show(self._draw)

    def _show(self, act: Callable[[], Any]) -> None:
        """Do it, and tell what is wrong with it, whatever a program raises."""
        try:
            act()
        except Exception as error:
            self.tell(error)

    def _say(self, text: str) -> None:
        self.status.value = f"<code>{html.escape(text)}</code>"

    def _busy(self, busy: bool) -> None:
        for name in ("model", "guide", "beta", "freeze_model", "epochs", "train", "compare"):
            getattr(self, name).disabled = busy
        if not busy:
            self.stop.disabled = True

    def _draw(self) -> None:
        panel, began = self.panel, time.perf_counter()
        with turn:
            drawn = pictures.overview(
                panel.trainer, panel._held_out(), panel.images, panel.seed, plain=True
            )
            self.overview.value = render(drawn, dpi=80)
            figure = Figure(figsize=(5.5, 4.4), layout="constrained")
            pictures.draw_or_tell(figure.subplots(), lambda ax: panel.latent_map(ax=ax))
            self.map.value = render(figure, dpi=80)
        now = time.perf_counter()
        self._drawn = now, now - began, self._seen()

    def _seen(self) -> Any:
        """What the pictures are of."""
        return self.panel.model, self.panel.guide, self.panel.trainer.step

    def _rest_while_a_cell_runs(self) -> None:
        """Have the run wait while a cell is run, which may draw random numbers or run programs."""
        if (shell := get_ipython()) is not None:
            shell.events.register("pre_run_cell", self._cell_begins)
            shell.events.register("post_run_cell", self._cell_ends)

    def _cell_begins(self, *info: Any) -> None:
        if (thread := self.panel._thread) is not None and thread.is_alive():
            self._cell.enter_context(turn)

    def _cell_ends(self, *result: Any) -> None:
        self._cell.close()


def _dropdown(name: str, options: Iterable[str], value: str) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=list(options), value=value, description=name)
