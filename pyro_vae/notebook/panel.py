"""A panel: its runs, what is seen of them, and controls."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from .views import Views

if TYPE_CHECKING:
    import ipywidgets


class Panel(Views):
    """One training run per model, whose guide, beta and learning rate are chosen as it goes on.

    Every choice has three forms: a call (``panel.choose(guide="flow").train(2).show()``), a
    control of ``panel.widgets()``, and the library's own objects, ``panel.trainer`` and
    ``panel.guide``, to go on by hand. A panel that is the last line of a cell shows its controls.
    A guide is built when it is first chosen, always from the same random numbers, and is kept with
    its optimizer state; the model goes on where it was.

    The button Train trains in a thread of its own, so that Stop is heard: the run is the one that
    ``train`` makes, and rests at the end of a step while a cell is run.

    Args:
        models: name -> model, such as one per likelihood, or any Pyro program; the first one is
            chosen.
        guides: name -> what builds a guide for a model, such as the class or any function of the
            model; the first one is chosen.
        data: data for all models, ``DataSplits`` or anything else that ``Trainer.fit`` takes, or
            name of the model -> its data, as some likelihoods want binary values. Without a test
            set pictures and tables are of the data that are trained on.
        beta: weight of the KL.
        lr: learning rate.
        batch_size: data per step; None leaves it to ``Trainer.fit``.
        images: test data in a picture.
        seed: of the training streams, of new guides and of the samples in the pictures.

    Raises:
        TypeError: models or guides that are no mappings.
        ValueError: no model, no guide, a model without data, or a number out of its range.

    Example:
        >>> from pyro_vae import data, guides, likelihoods, models
        >>> d = data.load("mnist-small")
        >>> vae = models.VAE(d.event_shape, (8, 2), likelihood=likelihoods.Bernoulli())
        >>> panel = Panel({"VAE": vae}, {"bottom-up": guides.BottomUp, "flow": guides.Flow}, d)
        >>> panel = panel.train(1).choose(guide="flow", beta=0.5).train(2)
        >>> panel.trainer.history.column("guide"), list(panel.guides)
        (['BottomUp', 'Flow', 'Flow'], ['bottom-up', 'flow'])
    """

    def widgets(self) -> ipywidgets.VBox:
        """Controls for all of this: choose, train, stop, compare, and see the pictures change.

        What is refused is told in the panel, and its control goes back to the last good value.

        Returns:
            A box of ipywidgets, the same one at each call, to be the last expression of a cell.

        Raises:
            ImportError: ipywidgets is not installed.
        """
        if self._listener is None:
            try:
                import ipywidgets  # noqa: F401
            except ImportError as error:
                raise ImportError(
                    "ipywidgets: the controls need it: pip install ipywidgets, or use "
                    "panel.choose(...), panel.train(epochs) and panel.show()"
                ) from error
            from .controls import Controls

            self._listener = Controls(self)
        return self._listener.box

    def __repr__(self) -> str:
        """What is chosen and how far training went."""
        return f"Panel({self.status})"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The controls, as the value of a cell; without ipywidgets the status, and what to do."""
        try:
            shown = self.widgets()._repr_mimebundle_(**options)
        except ImportError as error:
            text = f"{html.escape(repr(self))}<br>{html.escape(str(error))}"
            return {"text/plain": repr(self), "text/html": f"<p>{text}</p>"}
        return {**shown, "text/plain": repr(self)}
