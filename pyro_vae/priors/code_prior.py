"""A learned prior over grids of discrete codes: one code at a time, given those before it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..codebooks.base import one_hot
from ..data import Dataset
from ..data.given import as_dataset
from ..ground.arguments import positive, whole
from ..ground.recorded import Recorded
from ..ground.streams import RandomStream
from ..models import VQVAE
from ..networks.codes import CodeCNN
from ..programs.labels import Labels, checked_labels
from ..programs.modes import evaluating
from ..programs.placing import like
from ..programs.program import Guide
from ..programs.values import check_codes
from .autoregressive import AutoregressiveCodes, Codes, by_site, check_numbers

_BATCH = 1000


class CodePrior(Recorded, nn.Module):
    """p(z) = prod_i p(z_i | z_<i) over the code grids of a VQ-VAE, by a PixelCNN on one-hot codes.

    Because q(z|x) is certain, log p(x|z) + log p(z) at the codes z of x is a lower bound on
    log p(x) = log sum_z p(x|z) p(z) under any prior: it is one term of the sum. A better prior
    makes a tighter bound; ``handlers.replace_prior(vqvae, prior)`` has it in every number.

    Grids may have any number of dimensions: one is a row, and in three each frame is given the
    frames before it. Where a position has several codes, those of ``codebooks.Residual(n)``, each
    is given the ones before it. A model of two levels gets p(z2) p(z1|z2), and so on for more;
    a conditional one p(z|y).

    Sources: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017);
    the network is that of "Conditional Image Generation with PixelCNN Decoders", van den Oord et
    al. (2016); "Generating Diverse High-Fidelity Images with VQ-VAE-2", Razavi, van den Oord,
    Vinyals (2019), for levels; "Autoregressive Image Generation using Residual Quantization", Lee
    et al. (2022), for stacks.

    Args:
        vqvae: the model whose codes it is for.
        width: channels of the network.
        layers: gated layers; each lets a code see one position further to each side.

    Attributes:
        history: one dict per epoch of ``fit``: "epoch", "nats" per datum, and "validation"; the
            epoch whose weights ``patience`` has kept has ``kept=True``.
        sites: the latent sites that it is for, in sampling order.

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
        """Build the networks."""
        super().__init__()
        check_codes(vqvae, "vqvae", "build one; for latents that are vectors use another prior")
        self.grid_shape, self.codes = tuple(vqvae.grid_shape), vqvae.codes
        self.sites, self.condition = vqvae.latents, vqvae.condition
        self.shapes = dict(vqvae.code_shapes)
        self._codes_of = {site: book.codes for site, book in vqvae.codebooks.items()}
        built: list[CodeCNN] = []
        above: list[tuple[tuple[int, ...], int]] = []
        for site, book in vqvae.codebooks.items():
            options = {"width": width, "layers": layers, "labels": vqvae.condition}
            grid = vqvae.grids[site]
            built.append(CodeCNN(grid, book.codes, stack=book.stack, above=above, **options))
            above = [*above, (grid, math.prod(book.stack) * book.codes)]
        self.network = built.pop()
        if built:
            self.upper = nn.ModuleList(built)
        self.to(vqvae.one_hot)
        self.register_buffer("fitted_on", torch.tensor(0))
        self.history: list[dict[str, float]] = []

    def forward(self, *context: Tensor, temperature: float = 1.0) -> AutoregressiveCodes:
        """The distribution of a grid, of several the top one: that of ``at`` the first site."""
        return self.at(self.sites[0], context, temperature=temperature)

    def at(
        self, site: str, context: Sequence[Tensor] = (), *, temperature: float = 1.0
    ) -> AutoregressiveCodes:
        """The distribution of a site given all it depends on: event shape (*grid, [n,] codes).

        Args:
            site: one of ``sites``.
            context: one-hot codes (..., *grid, [n,] codes) of the sites before it, then one-hot
                labels (..., condition) of a conditional model.
            temperature: divides the logits of each code.
        """
        positive("temperature", temperature)
        i = self.sites.index(site)
        dims = [len(self.shapes[s]) + 1 for s in self.sites[:i]] + [1] * bool(self.condition)
        if len(context) != len(dims):
            raise ValueError(
                f"context: expected {len(dims)} tensors for {site!r}, of the sites before it and "
                f"of labels, got {len(context)}: build the prior for this model"
            )
        network = [*getattr(self, "upper", ()), self.network][i]
        given = tuple(zip(context, dims, strict=True))
        shape, codes = self.shapes[site], self._codes_of[site]
        return AutoregressiveCodes(network, shape, codes, context=given, temperature=temperature)

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
            data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y); with labels for a
                conditional model. Dynamic binarisation is drawn once.
            epochs: passes over the codes.
            batch_size: grids per step.
            lr: learning rate.
            validation: data whose mean log-probability is taken after each epoch.
            patience: keep the epoch with the best one, and end when for so many epochs none was
                better, with the prior as it was before if no epoch was better than that; the
                last row has ``kept=False`` then. Default: all epochs, and the last one.
            seed: of a random stream of its own; None draws from torch's global stream.
            progress: show a progress bar.

        Returns:
            This prior.

        Raises:
            ValueError: no epoch, codes of another grid, labels that are missing, or patience
                without validation data.
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
        with stream.on(like(self).device):
            codes = self._codes(guide, data)
            held_out = None if validation is None else self._codes(guide, validation)
            optimizer = torch.optim.Adam(self.parameters(), lr=lr)
            best: dict[str, Any]
            if patience is not None:
                best = start = {"validation": float(self._log_prob(*held_out).mean())}
                state, highest, waited = copy.deepcopy(self.state_dict()), -math.inf, 0
            for _ in (bar := tqdm(range(epochs), unit="epoch", disable=not progress)):
                nats = self._epoch(*codes, batch_size, optimizer)
                row: dict[str, float] = {"epoch": len(self.history) + 1, "nats": nats}
                if held_out is not None:
                    row["validation"] = float(self._log_prob(*held_out).mean())
                self.history.append(row)
                bar.set_postfix({k: f"{v:.2f}" for k, v in row.items() if k != "epoch"})
                if patience is None:
                    continue
                if row["validation"] > best["validation"]:
                    best, state = row, copy.deepcopy(self.state_dict())
                # Among epochs alone, the first of which may be worse than the start
                if row["validation"] > highest:
                    highest, waited = row["validation"], 0
                else:
                    waited += 1
                if waited >= patience:
                    break
        if patience is not None:
            self.load_state_dict(state)
            (self.history[-1] if best is start else best)["kept"] = best is not start
        self.fitted_on.fill_(len(codes[0][self.sites[0]]))
        return self

    def _epoch(
        self,
        index: dict[str, Tensor],
        labels: tuple[Tensor, ...],
        batch_size: int,
        optimizer: torch.optim.Optimizer,
    ) -> float:
        n, device = len(index[self.sites[0]]), like(self).device
        total = torch.zeros((), device=device)
        for rows in torch.randperm(n, device=device).split(batch_size):
            log_prob = self._mass(
                {s: i[rows] for s, i in index.items()}, [y[rows] for y in labels]
            )
            optimizer.zero_grad(set_to_none=True)
            (-log_prob.mean()).backward()
            optimizer.step()
            total += log_prob.detach().sum()
        optimizer.zero_grad(set_to_none=True)
        return float(total) / n

    def _codes(
        self, guide: Guide, data: Dataset | Tensor | tuple[Tensor, Tensor | None]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Numbers of the codes of all data, site -> (n, *grid), and their one-hot labels."""
        reference = like(self)
        data = as_dataset(data).to(reference.device)
        if self.condition and data.y is None:
            raise ValueError(
                f"data: expected labels, as the codes of {self.condition} classes are learnt, got "
                "none: pass (x, y)"
            )
        parts, labels = [], []
        with evaluating(guide):
            for x, y in data.batches(_BATCH):
                y = y if self.condition else None
                z = guide.encode(x.to(reference.dtype), y=y).sample
                parts.append({site: z[site].argmax(-1) for site in self.sites})
                labels.append(self._labels(y, len(x)))
        index = {s: torch.cat([part[s] for part in parts]) for s in self.sites}
        for site, numbers in index.items():
            if tuple(numbers.shape[1:]) != self.shapes[site]:
                raise ValueError(
                    f"guide: expected codes on a grid {self.shapes[site]}, got "
                    f"{tuple(numbers.shape[1:])}: build this prior for the guide's model"
                )
        return index, tuple(map(torch.cat, zip(*labels, strict=True)))

    def _labels(self, y: Labels, n: int) -> tuple[Tensor, ...]:
        """The one-hot labels (n, condition) of a conditional model, else nothing."""
        if y is not None and not self.condition:
            raise ValueError("y: expected none, as this prior's model is not conditional")
        vqvae = self.arguments["vqvae"]
        return vqvae.label_features(checked_labels(vqvae, y, n, like(self).device), n)

    def _numbers(
        self, grid: Codes, masks: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Site -> numbers of codes, checked where they are given."""
        found = by_site(grid, self.sites, "grid")
        for site, index in found.items():
            given = ... if masks is None else (slice(None), masks[site])
            check_numbers(index, self.shapes[site], self._codes_of[site], given)
        return found

    def _one_hot(self, index: Tensor, site: str) -> Tensor:
        return one_hot(index.long(), self._codes_of[site], like(self))

    def _mass(self, index: dict[str, Tensor], labels: Sequence[Tensor]) -> Tensor:
        """The log-probability of all sites, (n,)."""
        z = {site: self._one_hot(numbers, site) for site, numbers in index.items()}
        total: Any = 0
        for i, site in enumerate(self.sites):
            context = [*(z[s] for s in self.sites[:i]), *labels]
            total = total + self.at(site, context).log_prob(z[site])
        return total

    @torch.no_grad()
    def _log_prob(self, index: dict[str, Tensor], labels: tuple[Tensor, ...]) -> Tensor:
        rows = torch.arange(len(index[self.sites[0]]), device=like(self).device).split(_BATCH)
        return torch.cat(
            [self._mass({s: i[r] for s, i in index.items()}, [y[r] for y in labels]) for r in rows]
        )

    def log_prob(self, grid: Codes, *, y: Labels = None) -> Tensor:
        """Mass of grids, log p(z) in nats, without gradients.

        Args:
            grid: numbers of codes (n, *grid_shape), (n, *grid_shape, depth) of a stack; of a model
                with several levels site -> such numbers.
            y: labels (n,), or one for all, for a conditional model.

        Returns:
            (n,).
        """
        index = self._numbers(grid)
        return self._log_prob(index, self._labels(y, len(index[self.sites[0]])))

    @torch.no_grad()
    def sample(self, n: int, *, y: Labels = None, temperature: float = 1.0) -> Codes:
        """Draw grids of codes, to be decoded by ``vqvae.decode``.

        Args:
            n: number of grids.
            y: labels (n,), or one for all, for a conditional model.
            temperature: divides the logits of each code; below 1 likelier codes are drawn.

        Returns:
            Numbers of codes, as ``log_prob`` takes them.
        """
        self.check_fitted()
        whole("n", n)
        z = {
            site: like(self).new_zeros(n, *shape, self._codes_of[site])
            for site, shape in self.shapes.items()
        }
        return self._drawn(z, 0, y, temperature)

    @torch.no_grad()
    def complete(
        self, grid: Codes, mask: Codes, *, y: Labels = None, temperature: float = 1.0
    ) -> Codes:
        """Draw the codes that are not given, from p(the rest | the given ones).

        Codes are ordered by site, from the top, then by rows, then by depth.

        Args:
            grid: numbers of codes, as ``log_prob`` takes them; those that are not given do not
                matter.
            mask: of the shape of one grid, true where a code is given; of a model with several
                levels site -> such a mask.
            y: as in ``sample``.
            temperature: as in ``sample``.

        Returns:
            Numbers of codes, equal to ``grid`` where they were given.

        Raises:
            ValueError: a mask of another shape, or one where given codes do not come before all
                others in their order: that conditional cannot be drawn code by code.
        """
        self.check_fitted()
        masks = by_site(mask, self.sites, "mask")
        for site, each in masks.items():
            if tuple(each.shape) != self.shapes[site] or each.dtype != torch.bool:
                raise ValueError(
                    f"mask: expected booleans of shape {self.shapes[site]}, got {each.dtype} "
                    f"{tuple(each.shape)}"
                )
        flat = torch.cat([each.flatten() for each in masks.values()])
        start = int(flat.sum())
        if not flat[:start].all():
            raise ValueError(
                "mask: expected the given codes before all others in the order of rows, as in an "
                "upper part, because each code is drawn given those before it"
                + (", and those of z1 after all above" if len(masks) > 1 else "")
            )
        index = self._numbers(grid, masks)
        z = {s: self._one_hot(i, s) * masks[s].unsqueeze(-1) for s, i in index.items()}
        return self._drawn(z, start, y, temperature)

    def _drawn(self, z: dict[str, Tensor], start: int, y: Labels, temperature: float) -> Codes:
        """Numbers of codes, of which all from number ``start`` on are drawn."""
        labels = self._labels(y, len(z[self.sites[0]]))
        for i, site in enumerate(self.sites):
            size = math.prod(self.shapes[site])
            if start < size:
                context = [*(z[s] for s in self.sites[:i]), *labels]
                self.at(site, context, temperature=temperature).fill(z[site], start=max(start, 0))
            start -= size
        found = {site: value.argmax(-1) for site, value in z.items()}
        return found if len(found) > 1 else found[self.sites[0]]

    def __repr__(self) -> str:
        """Grid, codes, and what it was fitted on."""
        n = int(self.fitted_on)
        grids = ", ".join(
            f"{' x '.join(map(str, shape))} of {self._codes_of[site]} codes"
            for site, shape in self.shapes.items()
        )
        fitted = f", fitted on {n} data" if n else ""
        return f"CodePrior({grids}{fitted})"
