"""What a generative program consists of: its sites, their plates, and who sees whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.distributions.constraints import Constraint, real

from ..ground.graphs import boundary
from ..ground.tables import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plate:
    """A plate inside the datum, or around global sites.

    Attributes:
        name: its name.
        size: how many elements there are in a run.
        dim: its dimension, counted from the right of the batch shape.
        total: how many elements there are in all, where it is subsampled.
    """

    name: str
    size: int
    dim: int
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Site:
    """What latent and observed sites have in common.

    Attributes:
        distribution: name of its distribution's class.
        event_shape: shape of one value.
        plates: those around it besides that of the data, the outermost first.
        is_global: whether it is outside of the plate of the data.
        dim: dimension of the plate of the data, counted from the right of the batch shape.
        masked: whether a mask hides some of its values.
        scaled: whether the program itself weighs its log-probability.
    """

    distribution: str
    event_shape: tuple[int, ...]
    plates: tuple[Plate, ...] = ()
    is_global: bool = False
    dim: int = -1
    masked: bool = False
    scaled: bool = False

    @property
    def weighed(self) -> bool:
        """Whether the program itself hides it from some data, or weighs it."""
        return self.masked or self.scaled

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Sizes of its plates besides that of the data."""
        return tuple(plate.size for plate in self.plates)


@dataclass(frozen=True, kw_only=True)
class Latent(Site):
    """A latent site.

    Attributes:
        support: values that it may have.
        discrete: whether these are separate ones.
        enumerated: whether it is marked to be summed out.
    """

    support: Constraint = real
    discrete: bool = False
    enumerated: bool = False


@dataclass(frozen=True, kw_only=True)
class Observed(Site):
    """An observed site, or a factor.

    Attributes:
        argument: name of the program's argument of which the value is made; None for a constant.
        whole: whether the value is this argument as it is.
    """

    argument: str | None = None
    whole: bool = False

    @property
    def is_factor(self) -> bool:
        """Whether it has no value of its own."""
        return self.event_shape == (0,)


@dataclass(frozen=True, repr=False)
class Structure(Tabular):
    """Sites of a generative program and who sees whom; ``print`` it, or ``plot`` it.

    Attributes:
        latents: latent site -> what it is, in the model's sampling order.
        observed: observed site -> what it is, factors too.
        arguments: names of the program's other arguments that sites see, such as labels.
        parents: site -> the latents, observed sites and arguments that it sees.
        plate: name of the plate of the data.
        total: how many data there are in all, where the program says that it is given a part.
    """

    latents: Mapping[str, Latent]
    observed: Mapping[str, Observed]
    parents: Mapping[str, tuple[str, ...]]
    arguments: tuple[str, ...] = ()
    plate: str = "data"
    total: int | None = None

    @property
    def graph(self) -> dict[str, tuple[str, ...]]:
        """``parents``, with the arguments as nodes that have none."""
        return {**dict.fromkeys(self.arguments, ()), **self.parents}

    def argument_of(self, node: str) -> str | None:
        """The argument of the program that a node is, or is made of; None for a constant."""
        observed = self.observed.get(node)
        return node.removesuffix(" (argument)") if observed is None else observed.argument

    @property
    def posterior(self) -> dict[str, tuple[str, ...]]:
        """Latent site -> all that it depends on in the posterior, given everything else.

        These are its parents, its children and their other parents.
        """
        graph = self.graph
        return {
            site: tuple(node for node in graph if node in found)
            for site in self.latents
            for found in [boundary(graph, site, graph)]
        }

    def table(self) -> Table:
        """A row per site: what it is, its plates, whom it sees."""
        rows = [[name, "given", "", ""] for name in self.arguments]
        for name, parents in self.parents.items():
            site = self._site(name)
            told = f"~ {site.distribution} {site.event_shape}"
            if isinstance(site, Observed):
                told = "factor" if site.is_factor else f"observed {site.event_shape}"
            around = ", ".join(self._around(site))
            seen = ", ".join(parents) or "nothing"
            rows.append([name, told, around and f"in {around}", f"<- {seen}"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        line = "".join(f"  {{:<{width}}}" for width in widths)
        caption = ", ".join(
            f"{len(found)} {what}" + "s" * (len(found) != 1)
            for what, found in (("latent", self.latents), ("observed site", self.observed))
        )
        header = ("site", "distribution", "plates", "sees")
        return Table(caption, header, rows, line=line, left=(0, 1, 2, 3))

    def plot(self) -> Figure:
        """Draw the plate diagram: latents white, what is observed grey, plates as frames."""
        from .structure_picture import plate_diagram  # with matplotlib, slow to import

        kinds = dict.fromkeys(self.arguments, "given")
        plates = dict.fromkeys(self.arguments, (f'"{self.plate}" (n)',))
        for name in self.parents:
            site = self._site(name)
            plates[name] = self._around(site, " (n)")
            kinds[name] = "latent"
            if isinstance(site, Observed):
                kinds[name] = "factor" if site.is_factor else "observed"
        return plate_diagram(self.graph, kinds, plates)

    def _site(self, name: str) -> Latent | Observed:
        return self.latents[name] if name in self.latents else self.observed[name]

    def _around(self, site: Site, size: str = "") -> tuple[str, ...]:
        """Plates as they are shown, that of the data with a ``size``."""
        data = () if site.is_global else (f'"{self.plate}"{size}',)
        sizes = {p: p.size if p.total is None else f"{p.size} of {p.total}" for p in site.plates}
        return (*data, *(f'"{p.name}" ({told})' for p, told in sizes.items()))
