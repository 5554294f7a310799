"""What a guide has to know of the program that it is built for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import networks
from ..data import Dataset
from ..data.arguments import Data, columns_of
from ..distributions.sequences import Ended
from ..ground.arguments import known
from ..models import VAE
from ..models.parts import reader_of
from ..programs.checks import check_data
from ..programs.given import matched
from ..programs.inspecting import FEW, structure
from ..programs.inversion import faithful_inverse
from ..programs.kinds import first_of, kinds_said
from ..programs.methods import as_program
from ..programs.missing import check_known, has_missing, takes_missing
from ..programs.program import Model
from ..programs.running import traced, undisturbed
from ..programs.structure import Observed, Structure
from ..programs.support import support_of
from ..programs.unwrapping import below_handlers, name_of
from .inputs import OwnInputs, OwnWithMask, ProgramInputs
from .places import Place

# Runs of a program that tell where its latents are
_RUNS = 30
ORDERS = ("bottom-up", "top-down")


@dataclass(frozen=True)
class Subject:
    """A generative program, as far as guides of it are concerned.

    Attributes:
        model: the program.
        structure: its sites, and who sees whom.
        inputs: reads the arguments of a call.
        places: latent inside the plate of the data -> where its values lie.
        layers: these latents, in the order in which ``hidden`` has widths for each.
        inverse: what ``faithful_inverse`` tells of it from the data upwards, where that is known.
        hidden: such widths where a guide is given none.
        activation, norm: makers of the modules in networks.
        pyramid: the sizes of latents that are maps; None where there are none.
        like: device and type of data; None for a model whose guides are converted by hand.
        few: some data and labels to run the program on; None for a ``VAE``.
        encoder: from argument -> shape of a datum, makes the network that reads them all, where
            the model has one of its own for guides.
        tabular: whether networks of the data have a linear path beside them.
    """

    model: Callable
    structure: Structure
    inputs: OwnInputs | ProgramInputs
    places: dict[str, Place]
    layers: tuple[str, ...]
    inverse: Mapping[str, tuple[str, ...]] | None = None
    hidden: tuple[tuple[int, ...] | None, ...] | None = None
    activation: networks.Activation = nn.ReLU
    norm: networks.Norm | None = None
    pyramid: networks.Pyramid | None = None
    like: tuple[torch.device, torch.dtype] | None = None
    few: tuple[Data, Tensor | None] | None = None
    encoder: Callable[[Mapping[str, tuple[int, ...]]], nn.Module] | None = None
    tabular: bool = False

    def widths(self, hidden: networks.Hidden | None) -> dict[str, tuple[int, ...] | None]:
        """Latent -> widths of the hidden layers of its network."""
        found = self.hidden
        if hidden is not None or found is None:
            found = networks.hidden_of(hidden, [self.places[s].shape for s in self.layers])
        return dict(zip(self.layers, found, strict=True))

    def argument(self, node: str) -> str | None:
        """What the argument that a node is made of is called here; None for a constant."""
        return self.inputs.names.get(self.structure.argument_of(node))


def subject_of(model: Any, like: Any = None) -> Subject:
    """What guides have to know of a model, found by runs on ``like`` unless it is a ``VAE``.

    Raises:
        TypeError: no program, no data for one that has to be run, a model of other guides.
        ValueError: data on which it does not run, latents for which no guide can be built, no
            argument with a row per datum.
    """
    inner = below_handlers(model)
    if isinstance(inner, type) or not callable(inner):
        raise TypeError(
            f"model: expected a generative program, got {model!r}: build one first, such as "
            "models.VAE(...), or pass your own with data, like=x"
        )
    if isinstance(inner, Model) and not isinstance(inner, VAE):
        raise TypeError(
            f"model: expected one with continuous latents, got {type(inner).__name__}: use "
            "guides.NearestCode"
        )
    # A subclass may have another program, which data tell
    if isinstance(inner, VAE) and (like is None or type(inner).forward is VAE.forward):
        return _of_vae(model, inner, like)
    # A model may tell itself of what form its data are
    return _of_program(model, getattr(inner, "example", None) if like is None else like)


def _of_vae(model: Any, vae: VAE, like: Any) -> Subject:
    if isinstance(like, Dataset):
        data = matched(like, model, name="like")
        like = data.x if data.y is None else (data.x, data.y)
    found = vae.structure if like is None else structure(model, like)
    layers = vae.latents[::-1]
    places = {site: Place(site, found.latents[site], whole=True) for site in layers}
    incomplete = model is not vae and takes_missing(model)
    inputs = OwnWithMask(vae) if incomplete else OwnInputs(vae)
    own = {"encoder": reader_of(vae), "tabular": vae.tabular}
    subject = Subject(model, found, inputs, places, layers, **own)
    options = {"hidden": vae.hidden, "activation": vae.activation, "norm": vae.norm}
    options["pyramid"] = vae.pyramid
    # Without skip connections each latent is seen by the one below alone, unless classes that
    # are summed out see all
    inverse = None if vae.skip or vae.partly_labelled else chain(subject)
    return replace(subject, inverse=inverse, **options)


def _of_program(model: Callable, like: Any) -> Subject:
    x, y = None, None
    if like is not None:
        # What the trainer makes of them
        data = matched(like, model, name="like")
        x, y = data.x, data.y
        for column in columns_of(x):
            check_known(column, model, name="like")
        if has_missing(x):
            check_data(model, x, y)
    found = structure(model, x if y is None else (x, y))
    inverse = faithful_inverse(found).inputs
    places = {site: Place(site, found.latents[site]) for site in inverse}
    if not places:
        raise ValueError(
            f"model: expected latents inside the data plate {found.plate!r} that are not summed "
            f"out, got {[*found.latents]}: use an autoguide of Pyro, such as AutoNormal, for "
            "those that all data share"
        )
    names = map(found.argument_of, (*found.observed, *found.arguments))
    arguments = [name for name in names if name is not None]
    if not arguments:
        raise ValueError(
            f"like: expected data of which {name_of(model)} observes a row per datum, got none: "
            "make the data an argument of the program, model(x), or use an autoguide of Pyro such "
            "as AutoNormal"
        )
    kind = x.device, x.dtype if x.dtype.is_floating_point else torch.get_default_dtype()
    # A latent may have the name of an argument
    shown = {name: f"{name} (argument)" if name in places else name for name in arguments}
    observed = {site.argument for site in found.observed.values()}
    masked = [name for name in arguments if name in observed] if takes_missing(model) else ()
    kinds = kinds_said(model, arguments, like)
    tokens = _tokens(model, found, kinds, x, y)
    if (vocabulary := getattr(like, "vocabulary", None)) is not None:
        tokens[first_of(model, arguments)] = len(vocabulary)
    inputs = ProgramInputs(model, shown, x, y, masked, kinds, tokens)
    # From all over, since data are often sorted
    rows = torch.linspace(0, len(x) - 1, min(len(x), FEW)).long().to(x.device)
    few = x[rows], None if y is None else y[rows]
    _measure(as_program(model), places, *few)
    subject = Subject(as_program(model), found, inputs, places, tuple(places), inverse)
    own = getattr(below_handlers(model), "guide_encoder", None)
    return replace(subject, like=kind, few=few, encoder=own)


def _tokens(
    model: Callable, found: Structure, kinds: dict[str, str], x: Data, y: Tensor | None
) -> dict[str, int]:
    """Argument of tokens -> how many there are, by the distribution that observes them.

    Where that is one of sequences that end it tells the kind, too, which ``kinds`` gets.
    """
    named = {site: seen.argument for site, seen in found.observed.items() if seen.argument}
    asked = [s for s, name in named.items() if kinds.get(name) == "tokens"]
    asked += [s for s, name in named.items() if name not in kinds and _may_end(found.observed[s])]
    if not asked:
        return {}
    with undisturbed(model, device=x.device):
        trace = traced(model, x[:1], None if y is None else y[:1])
    counts = {}
    for site in asked:
        support = support_of(trace.nodes[site]["fn"])
        if isinstance(support, Ended):
            kinds.setdefault(named[site], "tokens")
        most = getattr(support, "upper_bound", None)
        if most is not None and kinds.get(named[site]) == "tokens":
            counts[named[site]] = int(torch.as_tensor(most).max()) + 1
    return counts


def _may_end(site: Observed) -> bool:
    return len(site.event_shape) == 1 and site.distribution in ("UntilEnd", "Autoregressive")


def _measure(model: Callable, places: Mapping[str, Place], x: Data, y: Tensor | None) -> None:
    """Have the values that the priors of latents draw as the numbers near one of networks."""
    drawn: dict[str, list[Tensor]] = {site: [] for site in places}
    with undisturbed(model, device=x.device):
        torch.manual_seed(0)
        for _ in range(_RUNS):
            trace = traced(model, x, y)
            for site, values in drawn.items():
                values.append(trace.nodes[site]["value"])
    for site, values in drawn.items():
        places[site].measure(torch.stack(values))


def factors_of(
    subject: Subject, order: str, sites: Sequence[str] | None
) -> dict[str, tuple[str, ...]]:
    """Latent -> the latents, then the arguments that its distribution is given, as it is drawn.

    Of all latents, or some ``sites``. Raises ``ValueError`` for another order, or for sites that
    are none, unknown, or named twice.
    """
    if order != "chain":
        known("order", order, ORDERS)
    graph = subject.structure
    if order == "chain":
        if subject.few is not None:
            raise ValueError(
                "order: expected 'bottom-up' or 'top-down', got 'chain', which is that of guides "
                "of models.VAE in files of version 0.1: leave order out"
            )
        inverse = chain(subject)
    elif order == "bottom-up" and subject.inverse is not None:
        inverse = subject.inverse
    else:
        inverse = faithful_inverse(graph, order).inputs
    found = {}
    for site in _covered(tuple(inverse), sites):
        names = [s if s in subject.places else subject.argument(s) for s in inverse[site]]
        found[site] = tuple(dict.fromkeys(name for name in names if name is not None))
    return found


def chain(subject: Subject) -> dict[str, tuple[str, ...]]:
    """Of a ``VAE``: z1 from x, each other latent from the one below, and all from labels."""
    labels = [*map(subject.argument, subject.structure.arguments)]
    below = ("x", *subject.layers)
    return {site: (b, *labels) for site, b in zip(subject.layers, below, strict=False)}


def _covered(drawn: tuple[str, ...], sites: Sequence[str] | None) -> tuple[str, ...]:
    if sites is None:
        return drawn
    chosen = list(sites)
    if isinstance(sites, str) or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"sites: expected some of {drawn}, each once, got {sites!r}: pass such as "
            f"[{drawn[0]!r}]"
        )
    for site in chosen:
        known("sites", site, drawn)
    return tuple(site for site in drawn if site in chosen)


def check_unweighed(found: Structure, sites: Sequence[str]) -> None:
    """Raise ``ValueError`` for a latent that the model hides from some data, or weighs."""
    for site in sites:
        latent = found.latents[site]
        if latent.weighed:
            handler = "mask" if latent.masked else "scale"
            raise ValueError(
                f"site {site!r}: expected latents that the model neither hides nor weighs, as its "
                f"guide has to do the same, got one under poutine.{handler}: use guides.Ladder, "
                "which runs the model, or write the guide by hand"
            )


def keys_of(sites: Sequence[str]) -> dict[str, str]:
    """Site -> a name that a ``ModuleDict`` takes, the site's own where it does."""
    taken = (*dir(nn.ModuleDict), "")
    keys = {s: s for s in sites if "." not in s and s not in taken}
    free = (key for i in itertools.count() if (key := f"site_{i}") not in keys)
    return {s: keys.get(s) or next(free) for s in sites}
