"""First codes, and which codes are given another start."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..ground.arguments import whole
from ..ground.recorded import Recorded

_PASSED = 10


class KMeans(Recorded):
    """First codes: the centres of a k-means clustering of a first batch.

    Centres start at random points of the batch. With fewer points than codes the points are
    taken as they are, some of them several times.

    Args:
        iterations: Lloyd's iterations, at most.
    """

    def __init__(self, iterations: int = 10) -> None:
        self.iterations = iterations

    def __call__(self, z: Tensor, codes: int) -> tuple[Tensor, Tensor]:
        """Cluster vectors.

        Args:
            z: (m, d), at most 256 per code are used.
            codes: number of clusters.

        Returns:
            Centres (codes, d), and how many of the m vectors each stands for, (codes,).
        """
        order = torch.randperm(len(z), device=z.device)
        if len(z) < codes:
            chosen = order[torch.arange(codes, device=z.device) % len(z)]
            return z[chosen], z.new_full((codes,), len(z) / codes)
        z_used = z[order[: 256 * codes]]
        seed = int(torch.randint(2**31, ()))
        from sklearn.cluster import KMeans as Fitted

        means = Fitted(codes, init="random", n_init=1, max_iter=self.iterations, random_state=seed)
        with warnings.catch_warnings(action="ignore"):  # repeated points leave clusters empty
            labels = means.fit(z_used.cpu().numpy()).labels_
        counts = torch.as_tensor(labels, device=z.device).long().bincount(minlength=codes)
        centres = torch.as_tensor(means.cluster_centers_).to(z)
        return centres, counts.to(z) * (len(z) / len(z_used))

    def __repr__(self) -> str:
        """As it was built."""
        return f"KMeans({self.iterations})"


class Unused(Recorded):
    """Which codes are revived: those that no output of the last batches was next to.

    A code that stands for few outputs, but for some, stays where it is. Where batches are small,
    more of them are waited for, until ten times as many outputs as codes have passed.

    Args:
        batches: how many, at least.

    Raises:
        ValueError: fewer than one batch.
    """

    def __init__(self, batches: int = 10) -> None:
        self.batches = whole("batches", batches)

    def __call__(self, idle: Tensor, outputs: float | Tensor) -> Tensor:
        """Which codes are dead, (codes,).

        Args:
            idle: for how many batches no output was next to each code, (codes,).
            outputs: how many of them a batch has.
        """
        return (idle >= self.batches) & (idle * outputs >= _PASSED * len(idle))

    def __repr__(self) -> str:
        """As it was built."""
        return f"Unused({self.batches})"


K_MEANS, UNUSED = KMeans(), Unused()
