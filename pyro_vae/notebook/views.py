"""What is seen of the runs of a panel: a line, pictures, a map, a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data import Dataset
from ..data.arguments import Arguments
from ..ground.streams import RandomStream
from ..ground.tables import lookup
from ..infer import GuideComparison, compare_guides
from ..infer.terms import dataset_terms
from ..programs.given import matched
from .runs import Runs
from .shown import MEASURED, POINTS, first_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Views(Runs):
    """Runs that tell and draw what they found."""

    @property
    def status(self) -> str:
        """What is chosen and what the last epoch of the chosen guide found, in one line.

        Where other guides were trained since then, its bound now is measured on up to 500 data.
        """
        frozen = ", model frozen" if self._freeze else ""
        text = f"{self._model}, {self._guide}{frozen}, beta {self._beta:g}"
        trained = self._attribute()
        if self._guide not in trained:
            return f"{text}: not trained yet"
        last = len(trained) - 1 - trained[::-1].index(self._guide)
        row, place = self.trainer.history[last], "test" if self._has_test else "training"
        part = " in part" if row.get("interrupted") else ""
        text = f"{text}: epoch {row['epoch']}{part}, elbo {row['elbo']:.2f}"
        if trained[-1] != self._guide:
            return f"{text}, now {self._measured():.2f} nats per datum on {place} data"
        # Not where the epoch was interrupted
        held_out = lookup(row, "validation.elbo")
        on_test = "" if held_out is None else f", on test data {held_out:.2f}"
        return f"{text}{on_test} nats per datum"

    def show(self) -> Figure:
        """Draw test data, their reconstructions, samples of the model, and the training curves.

        Of data that are no tensor of a row per datum, such as a program's own arguments, the
        terms of the bound take the place of pictures.

        Returns:
            A figure; its first axes hold the pictures, the others the curves of
            ``plots.history``. Nothing changes by drawing it.
        """
        from .pictures import overview  # with matplotlib, slow to import

        figure = overview(self.trainer, self._held_out(), self.images, self.seed)
        figure.subfigs[0].suptitle(self.status, fontsize="medium")
        return figure

    def latent_map(self, *, site: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw where test data lie in the chosen guide's latent space, see ``latent_scatter``.

        Args:
            site: latent site of vectors; by default the one whose means vary most.
            ax: axes to draw on; by default those of a new figure.

        Returns:
            The axes of ``plots.latent_scatter``. Nothing changes by drawing it.

        Raises:
            ValueError: no latent site of two units or more.
        """
        from .pictures import latent_map  # with matplotlib, slow to import

        data = self._held_out(POINTS)
        return latent_map(self.guide, data, site, ax, seed=self.seed)

    def compare(self, importance_samples: int = 50, *, most: int | None = None) -> GuideComparison:
        """The guides that were built for the chosen model, on its test data.

        Args:
            importance_samples: samples per datum for log p(x).
            most: so many data at most, the first ones; by default all.

        Returns:
            The table of ``infer.compare_guides``.
        """
        test = self._held_out(most)
        return compare_guides(self.model, self.guides, test, importance_samples=importance_samples)

    def _held_out(self, most: int | None = None) -> Dataset | Arguments:
        """Test data where there are some, else training data."""
        data = self.data[self._model]
        data = matched(data.test if self._has_test else data, self.model, self.guide)
        return first_of(data, self.guide, most)

    def _measured(self) -> float:
        """The bound of the chosen pair as it is, nats per datum."""
        key = self._model, self._guide, self.trainer.step
        if self._found is None or self._found[0] != key:
            data = self._held_out(MEASURED)
            with RandomStream(self.seed).on(data.device):
                terms = dataset_terms(self.model, self.guide, data)
            self._found = key, float(terms.elbo.mean())
        return self._found[1]
