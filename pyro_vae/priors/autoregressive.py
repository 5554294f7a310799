"""The distribution of grids of codes that are drawn one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from tqdm.auto import tqdm

from ..networks.codes import CodeCNN
from ..programs.placing import like

_SECONDS_BEFORE_A_BAR = 2

# Numbers of codes (n, *grid), of a model with several levels site -> such numbers
Codes = Tensor | Mapping[str, Tensor]


def by_site(values: Codes, sites: Sequence[str], name: str) -> dict[str, Tensor]:
    """Site -> tensor, of a tensor for a model of one level or a mapping for all sites."""
    if isinstance(values, Tensor) and len(sites) == 1:
        return {sites[0]: values}
    if isinstance(values, Tensor) or set(values) != set(sites):
        got = "a tensor" if isinstance(values, Tensor) else tuple(values)
        raise ValueError(
            f"{name}: expected one for each of {sites}, got {got}: pass a mapping such as "
            f"{{{', '.join(f'{site!r}: ...' for site in sites)}}}"
        )
    return {site: values[site] for site in sites}


def check_numbers(index: Tensor, shape: Sequence[int], codes: int, given: Any) -> None:
    """Raise ``ValueError`` unless these are numbers (n, *shape), of codes where they are given."""
    if index.is_floating_point() or tuple(index.shape[1:]) != tuple(shape):
        raise ValueError(
            f"grid: expected integers (n, {', '.join(map(str, shape))}), got {index.dtype} "
            f"{tuple(index.shape)}: pass guide.codes(x)"
        )
    found = index[given]
    if ((found < 0) | (found >= codes)).any():
        raise ValueError(
            f"grid: expected codes from 0 to {codes - 1}, got {int(found.min())} to "
            f"{int(found.max())}"
        )


class AutoregressiveCodes(TorchDistribution):
    """Grids of one-hot codes, p(z) = prod_i p(z_i | z_<i, context), positions i ordered by rows.

    Log-probabilities take one pass of the network, a draw goes from position to position. The
    numbers of the codes have the given ``shape``; ``context`` are the tensors that the network
    sees, (*batch shape, ...), each with the number of its other dimensions. The temperature
    divides the logits of each code; below 1 likelier codes are drawn.
    """

    arg_constraints = {}
    support = constraints.one_hot

    def __init__(
        self,
        network: CodeCNN,
        shape: Sequence[int],
        codes: int,
        *,
        context: Sequence[tuple[Tensor, int]] = (),
        temperature: float = 1.0,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.network, self.shape, self.codes = network, tuple(shape), codes
        self.context, self.temperature = context, temperature
        if batch_shape is None:
            leads = (value.shape[: value.dim() - dims] for value, dims in context)
            batch_shape = torch.broadcast_shapes(*leads) if context else torch.Size()
        super().__init__(batch_shape, torch.Size((*shape, codes)), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> AutoregressiveCodes:
        """The same distribution with another batch shape."""
        return AutoregressiveCodes(
            self.network,
            self.shape,
            self.codes,
            context=self.context,
            temperature=self.temperature,
            batch_shape=torch.Size(batch_shape),
        )

    def _context(self, lead: Sequence[int]) -> list[Tensor]:
        """The context of each of the grids in a batch of this shape, as rows."""
        events = [(value, value.shape[value.dim() - dims :]) for value, dims in self.context]
        return [value.expand(*lead, *event).reshape(-1, *event) for value, event in events]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of one-hot grids (..., *shape, codes)."""
        lead = value.shape[: -len(self.event_shape)]
        shape = torch.broadcast_shapes(lead, self.batch_shape)
        if self.context:
            lead, value = shape, value.expand(*shape, *self.event_shape)
        z = value.reshape(-1, *self.event_shape)
        logits = self.network.logits(z, self._context(lead)) / self.temperature
        log_prob = (logits.log_softmax(-1) * z).flatten(1).sum(1).reshape(lead)
        return log_prob.expand(shape)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Ancestral draws of shape ``sample_shape`` + batch shape + event shape."""
        shape = self._extended_shape(sample_shape)
        lead = shape[: -len(self.event_shape)]
        z = like(self.network).new_zeros(math.prod(lead), *self.event_shape)
        return self.fill(z, start=0, lead=lead).reshape(shape)

    @torch.no_grad()
    def fill(self, z: Tensor, *, start: int, lead: Sequence[int] | None = None) -> Tensor:
        """Draw all codes from number ``start`` on, given those before; in place.

        The grids are one-hot codes (n, *shape, codes), zero from there on, of a batch of shape
        ``lead``, which is (n,) where nothing is said.
        """

        def draw(logits: Tensor) -> Tensor:
            code = torch.multinomial((logits / self.temperature).softmax(1), 1)
            return torch.zeros_like(logits).scatter_(1, code, 1.0)

        context = self._context((len(z),) if lead is None else lead)
        walk = self.network.fill(z, context, start=start, draw=draw)
        positions = math.prod(self.network.sizes)
        bar = tqdm(total=positions, unit="code", delay=_SECONDS_BEFORE_A_BAR, leave=False)
        with bar:
            for done in walk:
                bar.update(done - bar.n)
        return z
