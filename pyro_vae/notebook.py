"""Swap parts while a pair trains: a panel for notebooks, with widgets or by plain calls."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from . import plots
from .data import DataSplits
from .ground.arguments import at_least, known
from .ground.drawing import ShownOnce
from .ground.streams import RandomStream
from .ground.tables import lookup
from .infer import GuideComparison, compare_guides, reconstruct
from .plots.drawing import grid_axes
from .programs.given import matched
from .programs.labels import label_arguments
from .programs.program import Guide, Model
from .programs.running import measuring
from .report.sections import render
from .training.trainer import Trainer

if TYPE_CHECKING:
    import ipywidgets

Factory = Callable[[Model], Guide]


class Panel:
    """One training run per model, whose guide and beta are chosen between its epochs.

    Every choice has three forms: a call (``panel.choose(guide="flow").train(2).show()``), a
    control of ``panel.widgets()``, and the library's own objects, ``panel.trainer`` and
    ``panel.guide``, to go on by hand. A guide is built when it is first chosen, always from the
    same random numbers, and is kept with its optimizer state; the model goes on where it was.

    Args:
        models: name -> model, such as one per likelihood; the first one is chosen.
        guides: name -> what builds a guide for a model, such as the class; the first one is
            chosen.
        data: data for all models, or name of the model -> its data, as some likelihoods want
            binary values.
        beta: weight of the KL.
        lr: learning rate.
        batch_size: data per step.
        images: test data in a picture.
        seed: of the training streams, of new guides and of the samples in the pictures.

    Raises:
        TypeError: models or guides that are no mappings.
        ValueError: no model, no guide, or a model without data.

    Example:
        >>> from pyro_vae import data, guides, likelihoods, models
        >>> d = data.load(torch.randn(50, 6))
        >>> vae = models.VAE((6,), (4, 2), likelihood=likelihoods.Gaussian(), hidden=(8,))
        >>> panel = Panel({"VAE": vae}, {"bottom-up": guides.BottomUp, "flow": guides.Flow}, d)
        >>> panel = panel.train(1).choose(guide="flow", beta=0.5).train(2)
        >>> panel.trainer.history.column("guide"), list(panel.guides)
        (['BottomUp', 'Flow', 'Flow'], ['bottom-up', 'flow'])
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        guides: Mapping[str, Factory],
        data: DataSplits | Mapping[str, DataSplits],
        *,
        beta: float = 1.0,
        lr: float = 1e-3,
        batch_size: int = 128,
        images: int = 10,
        seed: int = 0,
    ) -> None:
        for argument, given in (("models", models), ("guides", guides)):
            if not isinstance(given, Mapping):
                raise TypeError(
                    f"{argument}: expected a mapping from a name, got {type(given).__name__}: "
                    'pass {"bottom-up": guides.BottomUp} and the like'
                )
            if not given:
                raise ValueError(f"{argument}: expected at least one, got an empty mapping")
        self.models, self.factories = dict(models), dict(guides)
        self.data = dict(data) if isinstance(data, Mapping) else dict.fromkeys(models, data)
        if missing := [name for name in self.models if name not in self.data]:
            raise ValueError(f"data: expected some for each model, got none for {missing}")
        self.lr, self.batch_size, self.images, self.seed = lr, batch_size, images, seed
        self._guides: dict[str, dict[str, Guide]] = {name: {} for name in self.models}
        self._trainers: dict[str, Trainer] = {}
        self._beta, self._freeze = beta, False
        self._model, self._guide = next(iter(self.models)), next(iter(self.factories))
        self._settle()

    @property
    def model(self) -> Model:
        """The chosen model."""
        return self.models[self._model]

    @property
    def guide(self) -> Guide:
        """The chosen guide of the chosen model."""
        return self.guides[self._guide]

    @property
    def guides(self) -> dict[str, Guide]:
        """The guides that were built for the chosen model so far, by name."""
        return self._guides[self._model]

    @property
    def trainer(self) -> Trainer:
        """The training run of the chosen model."""
        return self._trainers[self._model]

    @property
    def status(self) -> str:
        """What is chosen and what the last epoch found, in one line."""
        frozen = ", model frozen" if self._freeze else ""
        text = f"{self._model}, {self._guide}{frozen}, beta {self._beta:g}"
        if not self.trainer.history:
            return f"{text}: not trained yet"
        row = self.trainer.history[-1]
        # Not where the epoch was interrupted
        held_out = lookup(row, "validation.elbo")
        on_test = "" if held_out is None else f", on test data {held_out:.2f}"
        return f"{text}: epoch {row['epoch']}, elbo {row['elbo']:.2f}{on_test} nats per datum"

    def choose(
        self,
        *,
        model: str | None = None,
        guide: str | None = None,
        beta: float | None = None,
        freeze_model: bool | None = None,
    ) -> Panel:
        """Choose what the next epochs train; what is not given stays.

        Args:
            model: a name in ``models``.
            guide: a name in ``guides``.
            beta: weight of the KL, a number >= 0.
            freeze_model: train the guide alone.

        Returns:
            This panel.

        Raises:
            ValueError: an unknown name, a beta that is no number >= 0, or a guide that does not
                fit the model; the choice is then as before.
        """
        before = self._model, self._guide, self._beta, self._freeze
        if model is not None:
            self._model = known("model", model, self.models)
        if guide is not None:
            self._guide = known("guide", guide, self.factories)
        if beta is not None:
            self._beta = beta
        if freeze_model is not None:
            self._freeze = bool(freeze_model)
        try:
            self._settle()
        except (TypeError, ValueError):
            self._model, self._guide, self._beta, self._freeze = before
            raise
        return self

    def _settle(self) -> None:
        """Bring the trainer of the chosen model to what is chosen."""
        at_least("beta", self._beta)
        if self._guide not in self.guides:
            with RandomStream(self.seed).on(torch.device("cpu")):
                self.guides[self._guide] = self.factories[self._guide](self.model)
        if self._model not in self._trainers:
            trainer = Trainer(self.model, self.guide, lr=self.lr, seed=self.seed)
            self._trainers[self._model] = trainer
        if (self.trainer.guide, self.trainer.frozen) != (self.guide, self._freeze):
            self.trainer.swap_guide(self.guide, freeze_model=self._freeze)
        self.trainer.beta = self._beta

    def train(self, epochs: int = 1, **options: Any) -> Panel:
        """Train for some more epochs, with the test data for validation.

        Args:
            epochs: passes over the training data.
            **options: passed to ``Trainer.fit``, such as ``callbacks`` or ``progress=True``.

        Returns:
            This panel.
        """
        d = self.data[self._model]
        options = {"batch_size": self.batch_size, "progress": False} | options
        self.trainer.fit(d.train, validation=d.test, epochs=epochs, **options)
        return self

    def show(self) -> Figure:
        """Draw test data, their reconstructions, samples of the model, and the training curves.

        Returns:
            A figure; its first axes hold the pictures, the others the curves of
            ``plots.history``. Nothing changes by drawing it.
        """
        figure = self._picture()
        figure.subfigs[0].suptitle(self.status, fontsize="medium")
        return figure

    def _picture(self) -> Figure:
        curves = bool(self.trainer.history)
        figure = plt.figure(
            figsize=(10, 6.6 if curves else 3.2), layout="constrained", FigureClass=ShownOnce
        )
        above, *below = figure.subfigures(1 + curves, 1, squeeze=False).flat
        rows = self._rows()
        cells = torch.cat(list(rows.values()))
        grid_axes(cells, len(cells) // len(rows), above.subplots(), row_labels=list(rows))
        if curves:
            plots.history(self.trainer.history, axes=list(below[0].subplots(1, 3)))
        return figure

    def _rows(self) -> dict[str, torch.Tensor]:
        test = matched(self.data[self._model].test[: self.images], self.model, self.guide)
        own = RandomStream(self.seed).on(test.device)
        with measuring(self.model, self.guide, device=test.device), own:
            x, y = test.batch(torch.arange(len(test)))
            labels = label_arguments(self.model, y)
            return {
                "data": x,
                "reconstruction": reconstruct(self.model, self.guide, x, y=y),
                "sample": self.model.sample(len(x), mean=True, **labels),
            }

    def compare(self, importance_samples: int = 50) -> GuideComparison:
        """The guides that were built for the chosen model, on its test data.

        Args:
            importance_samples: samples per datum for log p(x).

        Returns:
            The table of ``infer.compare_guides``.
        """
        test = self.data[self._model].test
        return compare_guides(self.model, self.guides, test, importance_samples=importance_samples)

    def widgets(self) -> ipywidgets.VBox:
        """Controls for all of this: choose, train, and see the picture change.

        Returns:
            A box of ipywidgets, to be the last expression of a cell; ``children`` are the
            controls, the line of ``status``, and the picture.

        Raises:
            ImportError: ipywidgets is not installed.
        """
        return _controls(self)

    def __repr__(self) -> str:
        """What is chosen and how far training went."""
        return f"Panel({self.status})"


def _controls(panel: Panel) -> ipywidgets.VBox:
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError(
            "ipywidgets: the controls need it: pip install ipywidgets, or use panel.choose(...), "
            "panel.train(epochs) and panel.show()"
        ) from error

    def drop(name: str, options: Iterable[str], value: str) -> ipywidgets.Dropdown:
        return ipywidgets.Dropdown(options=list(options), value=value, description=name)

    model = drop("model", panel.models, panel._model)
    guide = drop("guide", panel.factories, panel._guide)
    bounds = {"min": 0, "max": 1e6, "step": 0.25}
    beta = ipywidgets.BoundedFloatText(panel._beta, description="beta", **bounds)
    alone = ipywidgets.Checkbox(value=panel._freeze, description="train the guide alone")
    epochs = ipywidgets.BoundedIntText(value=1, min=1, max=10_000, description="epochs")
    train = ipywidgets.Button(description="Train", button_style="primary")
    status, picture = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def tell(text: str) -> None:
        status.value = f"<code>{html.escape(text)}</code>"

    def update(act: Callable[[], Any]) -> None:
        train.disabled = True
        try:
            act()
            picture.value = render(panel._picture(), dpi=80)
            tell(panel.status)
        # A callback's error is shown nowhere else
        except Exception as error:
            tell(f"{type(error).__name__}: {error}")
        finally:
            train.disabled = False

    def choose() -> Panel:
        return panel.choose(
            model=model.value, guide=guide.value, beta=beta.value, freeze_model=alone.value
        )

    def epoch_ended(row: dict[str, Any], **kwargs: Any) -> None:
        # The picture waits for the last
        tell(f"epoch {row['epoch']}: elbo {row['elbo']:.2f} nats per datum")

    def trained(button: Any) -> None:
        tell("training ...")
        # Chosen again, so that what the controls say after a mistake is not ignored
        hook = SimpleNamespace(on_epoch_end=epoch_ended)
        update(lambda: choose().train(epochs.value, callbacks=[hook]))

    for control in (model, guide, beta, alone):
        control.observe(lambda change: update(choose), names="value")
    train.on_click(trained)
    update(choose)
    rows = ipywidgets.HBox([model, guide]), ipywidgets.HBox([beta, alone])
    return ipywidgets.VBox([*rows, ipywidgets.HBox([epochs, train]), status, picture])
