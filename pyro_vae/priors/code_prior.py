"""A learned prior over grids of discrete codes: one code at a time, given those before it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.nn.functional import embedding
from tqdm.auto import tqdm

from ..data import Dataset
from ..data.given import as_dataset
from ..ground.arguments import positive, whole
from ..ground.recorded import Recorded
from ..ground.streams import RandomStream
from ..models import VQVAE
from ..networks.masked import PixelCNN
from ..programs.modes import evaluating
from ..programs.placing import like
from ..programs.program import Guide

_BATCH = 1000
_SECONDS_BEFORE_A_BAR = 2


class AutoregressiveCodes(TorchDistribution):
    """Grids of one-hot codes, p(z) = prod_i p(z_i | z_<i), positions i ordered by rows.

    Log-probabilities take one pass of the network, a draw goes from position to position. The
    network makes features (n, codes, h, w) of one-hot codes (n, codes, h, w); a ``grid_shape``
    (positions,) is one row to it. The temperature divides the logits of each code; below 1
    likelier codes are drawn.
    """

    arg_constraints = {}
    support = constraints.one_hot

    def __init__(
        self,
        network: PixelCNN,
        grid_shape: Sequence[int],
        codes: int,
        *,
        temperature: float = 1.0,
        batch_shape: torch.Size = torch.Size(),  # noqa: B008
    ) -> None:
        self.network, self.grid_shape, self.codes = network, tuple(grid_shape), codes
        self.temperature = temperature
        event_shape = torch.Size((*grid_shape, codes))
        super().__init__(batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> AutoregressiveCodes:
        """The same distribution with another batch shape."""
        return AutoregressiveCodes(
            self.network,
            self.grid_shape,
            self.codes,
            temperature=self.temperature,
            batch_shape=torch.Size(batch_shape),
        )

    @property
    def _image(self) -> tuple[int, int]:
        return (1, *self.grid_shape)[-2:]

    def _logits(self, images: Tensor) -> Tensor:
        return (self.network(images) / self.temperature).log_softmax(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of one-hot grids (..., *grid_shape, codes)."""
        lead = value.shape[: -len(self.event_shape)]
        images = value.reshape(-1, *self._image, self.codes).movedim(-1, 1)
        log_prob = (self._logits(images) * images).sum((1, 2, 3)).reshape(lead)
        return log_prob.expand(torch.broadcast_shapes(lead, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Ancestral draws of shape ``sample_shape`` + batch shape + event shape."""
        shape = self._extended_shape(sample_shape)
        n = math.prod(shape[: -len(self.event_shape)])
        grid = like(self.network).new_zeros(n, self.codes, *self._image)
        images = self.fill(grid, start=0)
        return images.movedim(1, -1).reshape(shape)

    @torch.no_grad()
    def fill(self, images: Tensor, *, start: int) -> Tensor:
        """Draw all positions from ``start`` on, given those before; in place.

        The images are one-hot codes (n, codes, h, w), zero from there on.
        """
        walk = tqdm(
            self.network.walk(images),
            total=math.prod(self._image),
            unit="code",
            delay=_SECONDS_BEFORE_A_BAR,
            leave=False,
        )
        for i, (row, column, features) in enumerate(walk):
            if i >= start:
                code = torch.multinomial((features / self.temperature).softmax(1), 1)
                images[:, :, row, column] = torch.zeros_like(features).scatter_(1, code, 1.0)
        return images


class CodePrior(Recorded, nn.Module):
    """p(z) = prod_i p(z_i | z_<i) over the code grids of a VQ-VAE, by a PixelCNN on one-hot codes.

    Because q(z|x) is certain, log p(x|z) + log p(z) at the codes z of x is a lower bound on
    log p(x) = log sum_z p(x|z) p(z) under any prior: it is one term of the sum. A better prior
    makes a tighter bound; ``handlers.replace_prior(vqvae, prior)`` has it in every number.

    Source: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017);
    the network is that of "Conditional Image Generation with PixelCNN Decoders", van den Oord et
    al. (2016).

    Args:
        vqvae: the model whose codes it is for.
        width: channels of the network.
        layers: gated layers; each lets a code see one position further to each side.

    Attributes:
        history: one dict per epoch of ``fit``: "epoch", "nats" per datum, and "validation"; the
            epoch whose weights ``patience`` has kept has ``kept=True``.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vqvae = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli())
        >>> prior = CodePrior(vqvae, width=8, layers=2)
        >>> x = torch.rand(32, 1, 8, 8).round()
        >>> prior = prior.fit(guides.NearestCode(vqvae), x, epochs=1, progress=False)
        >>> vqvae.sample(5, prior=prior).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, vqvae: VQVAE, *, width: int = 64, layers: int = 8) -> None:
        """Build the network."""
        super().__init__()
        if not hasattr(vqvae, "codebook"):
            raise TypeError(
                f"vqvae: expected a models.VQVAE, got {type(vqvae).__name__}: this prior is for "
                "grids of codes; for vectors there are other priors"
            )
        self.grid_shape, self.codes = tuple(vqvae.grid_shape), vqvae.codes
        self.network = PixelCNN(self.codes, self.codes, width=width, layers=layers)
        self.network.to(vqvae.one_hot)
        self.register_buffer("one_hot", torch.eye(self.codes).to(vqvae.one_hot), persistent=False)
        self.register_buffer("fitted_on", torch.tensor(0))
        self.history: list[dict[str, float]] = []

    def forward(self, *context: Tensor, temperature: float = 1.0) -> AutoregressiveCodes:
        """The distribution of a grid: batch shape (), event shape (*grid_shape, codes)."""
        positive("temperature", temperature)
        return AutoregressiveCodes(
            self.network, self.grid_shape, self.codes, temperature=temperature
        )

    def check_fitted(self) -> None:
        """Raise ``ValueError`` before the first ``fit``."""
        if not self.fitted_on:
            raise ValueError(
                "prior: this CodePrior was not fitted yet: call "
                "prior.fit(guide, data, epochs=20) with the data that the pair was trained on"
            )

    def fit(
        self,
        guide: Guide,
        data: Dataset | Tensor | tuple[Tensor, Tensor | None],
        *,
        epochs: int,
        batch_size: int = 128,
        lr: float = 1e-3,
        validation: Dataset | Tensor | tuple[Tensor, Tensor | None] | None = None,
        patience: int | None = None,
        seed: int | None = None,
        progress: bool = True,
    ) -> CodePrior:
        """Raise the log-probability of the codes of data by Adam; may be called again.

        The data are encoded once, in evaluation mode; the pair stays as it is.

        Args:
            guide: the trained ``NearestCode``.
            data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y). Dynamic
                binarisation is drawn once.
            epochs: passes over the codes.
            batch_size: grids per step.
            lr: learning rate.
            validation: data whose mean log-probability is taken after each epoch.
            patience: keep the epoch with the best one, and end when for so many epochs none was
                better. Default: all epochs, and the last one.
            seed: of a random stream of its own; None draws from torch's global stream.
            progress: show a progress bar.

        Returns:
            This prior.

        Raises:
            ValueError: no epoch, codes of another grid, or patience without validation data.
        """
        whole("epochs", epochs)
        whole("batch_size", batch_size)
        if patience is not None:
            whole("patience", patience)
            if validation is None:
                raise ValueError(
                    f"patience: expected validation data to judge epochs by, got {patience} "
                    "without any: pass validation= beside it"
                )
        stream = RandomStream(seed)
        with stream.on(self.one_hot.device):
            index = self._codes(guide, data)
            held_out = None if validation is None else self._codes(guide, validation)
            optimizer = torch.optim.Adam(self.network.parameters(), lr=lr)
            best: dict[str, float] | None = None
            for _ in (bar := tqdm(range(epochs), unit="epoch", disable=not progress)):
                nats = self._epoch(index, batch_size, optimizer)
                row: dict[str, float] = {"epoch": len(self.history) + 1, "nats": nats}
                if held_out is not None:
                    row["validation"] = float(self.log_prob(held_out).mean())
                self.history.append(row)
                bar.set_postfix({k: f"{v:.2f}" for k, v in row.items() if k != "epoch"})
                if patience is None:
                    continue
                if best is None or row["validation"] > best["validation"]:
                    best, state = row, copy.deepcopy(self.network.state_dict())
                elif row["epoch"] - best["epoch"] >= patience:
                    break
        if best is not None:
            self.network.load_state_dict(state)
            best["kept"] = True
        self.fitted_on.fill_(len(index))
        return self

    def _epoch(self, index: Tensor, batch_size: int, optimizer: torch.optim.Optimizer) -> float:
        total = torch.zeros((), device=index.device)
        for rows in torch.randperm(len(index), device=index.device).split(batch_size):
            log_prob = self().log_prob(embedding(index[rows], self.one_hot))
            optimizer.zero_grad(set_to_none=True)
            (-log_prob.mean()).backward()
            optimizer.step()
            total += log_prob.detach().sum()
        optimizer.zero_grad(set_to_none=True)
        return float(total) / len(index)

    def _codes(
        self, guide: Guide, data: Dataset | Tensor | tuple[Tensor, Tensor | None]
    ) -> Tensor:
        """Numbers of the codes of all data, (n, *grid_shape)."""
        data = as_dataset(data).to(self.one_hot.device)
        with evaluating(guide):
            batches = (x.to(self.one_hot.dtype) for x, _ in data.batches(_BATCH))
            index = torch.cat([guide.encode(x).sample["z1"].argmax(-1) for x in batches])
        if tuple(index.shape[1:]) != self.grid_shape:
            raise ValueError(
                f"guide: expected codes on a grid {self.grid_shape}, got "
                f"{tuple(index.shape[1:])}: build this prior for the guide's model"
            )
        return index

    def _one_hot(self, index: Tensor, name: str) -> Tensor:
        if index.is_floating_point() or tuple(index.shape[1:]) != self.grid_shape:
            raise ValueError(
                f"{name}: expected integers (n, {', '.join(map(str, self.grid_shape))}), got "
                f"{index.dtype} {tuple(index.shape)}: pass guide.codes(x)"
            )
        return embedding(index.long(), self.one_hot)

    @torch.no_grad()
    def log_prob(self, grid: Tensor) -> Tensor:
        """Mass of grids, log p(z) in nats, without gradients.

        Args:
            grid: numbers of codes (n, *grid_shape).

        Returns:
            (n,).
        """
        parts = grid.split(_BATCH)
        return torch.cat([self().log_prob(self._one_hot(part, "grid")) for part in parts])

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0) -> Tensor:
        """Draw grids of codes, to be decoded by ``vqvae.decode``.

        Args:
            n: number of grids.
            temperature: divides the logits of each code; below 1 likelier codes are drawn.

        Returns:
            Numbers of codes (n, *grid_shape).
        """
        self.check_fitted()
        return self(temperature=temperature).sample(torch.Size((n,))).argmax(-1)

    @torch.no_grad()
    def complete(self, grid: Tensor, mask: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Draw the codes that are not given, from p(the rest | the given ones).

        Args:
            grid: numbers of codes (n, *grid_shape); those that are not given do not matter.
            mask: (*grid_shape,), true where a code is given.
            temperature: as in ``sample``.

        Returns:
            Numbers of codes (n, *grid_shape), equal to ``grid`` where they were given.

        Raises:
            ValueError: a mask of another shape, or one where given codes do not come before all
                others in the order of rows: that conditional cannot be drawn code by code.
        """
        self.check_fitted()
        if tuple(mask.shape) != self.grid_shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask: expected booleans of shape {self.grid_shape}, got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        start = int(mask.sum())
        if not mask.flatten()[:start].all():
            raise ValueError(
                "mask: expected the given codes before all others in the order of rows, as in an "
                "upper part, because each code is drawn given those before it"
            )
        given = self._one_hot(grid, "grid") * mask.unsqueeze(-1)
        images = given.reshape(len(grid), *(1, *self.grid_shape)[-2:], self.codes).movedim(-1, 1)
        distribution = self(temperature=temperature)
        images = distribution.fill(images.contiguous(), start=start)
        return images.argmax(1).reshape(grid.shape)

    def __repr__(self) -> str:
        """Grid, codes, and what it was fitted on."""
        n = int(self.fitted_on)
        grid = " x ".join(map(str, self.grid_shape))
        fitted = f", fitted on {n} data" if n else ""
        return f"CodePrior({grid} of {self.codes} codes{fitted})"
