"""Maps from data to features in which distributions are compared."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from tqdm.auto import tqdm

from ..data import Dataset, DataSplits
from ..data.checks import complete
from ..ground.files import write_atomically
from ..programs.modes import evaluating

_FORMAT = "pyro_vae classifier features 1"
_BATCH = 128


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyro_vae"


class ClassifierFeatures(nn.Module):
    """The last hidden layer of a small classifier trained on labels: data (n, ...) -> (n, size).

    Two strided convolutions and a linear layer for images, a hidden layer for vectors. Made by
    ``fit``.

    Args:
        event_shape: (d,), (h, w) or (c, h, w).
        classes: number of labels.
        size: number of features.

    Attributes:
        accuracy: share of data that were not trained on and are classified correctly.
        seed: of ``fit``, with which anybody gets the same features; None before.

    Example:
        >>> from pyro_vae import data
        >>> d = data.load("digits")
        >>> features = ClassifierFeatures.fit(d, steps=100, cache=False, progress=False)
        >>> features(d.test.x).shape
        torch.Size([360, 64])
        >>> features.accuracy > 0.6
        True
    """

    resize: tuple[int, ...] | None = None

    def __init__(self, event_shape: tuple[int, ...], classes: int, size: int = 64) -> None:
        super().__init__()
        if len(event_shape) > 1:
            *channels, height, width = event_shape
            half = [math.ceil(math.ceil(side / 2) / 2) for side in (height, width)]
            self.body = nn.Sequential(
                nn.Unflatten(1, (1, height)) if not channels else nn.Identity(),
                nn.Conv2d(math.prod(channels), 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32 * math.prod(half), size),
            )
        else:
            self.body = nn.Sequential(
                nn.Linear(event_shape[0], 128), nn.ReLU(), nn.Linear(128, size)
            )
        self.head = nn.Linear(size, classes)
        self.event_shape, self.classes, self.size = tuple(event_shape), classes, size
        self.accuracy = math.nan
        self.trained_on, self.seed = "", None

    def forward(self, x: Tensor) -> Tensor:
        """The features, (n, size), at least 0."""
        weight = self.head.weight
        return self.body(x.to(weight)).relu()

    @classmethod
    def fit(
        cls,
        data: DataSplits | Dataset,
        *,
        size: int = 64,
        steps: int = 2000,
        seed: int = 0,
        cache: str | Path | bool = True,
        progress: bool = True,
    ) -> ClassifierFeatures:
        """Train on the labels, or read what was trained on the same data before.

        It takes about half a minute for MNIST. Data under dynamic binarisation are drawn, as for
        the training of a model. The accuracy is that on the test set, or, where there is none, on
        every tenth datum, left out of training.

        Args:
            data: labelled ``data.load(...)`` or a labelled training set.
            size: number of features.
            steps: optimiser steps, 128 data each.
            seed: of the initial weights and of the batches.
            cache: folder to keep the result in, under a checksum of data and settings; True for
                ``pyro_vae`` in the user's cache folder, False for nowhere.
            progress: say that a classifier is trained, with a progress bar, or read, and where it
                is kept.

        Returns:
            The features, in evaluation mode.

        Raises:
            ValueError: data without labels or of a shape with more than three dimensions.
        """
        train, test, name = _split(data)
        if not isinstance(train.y, Tensor):
            raise ValueError("data: expected labels y, got none: pass features of your own")
        if not 1 <= len(train.event_shape) <= 3:
            raise ValueError(
                f"data: expected (d,), (h, w) or (c, h, w), got {train.event_shape}: pass "
                "features of your own"
            )
        settings = {"format": _FORMAT, "size": size, "steps": steps, "seed": seed}
        file = None
        if cache is not False:
            folder = _cache_folder() if cache is True else Path(cache)
            file = folder / f"features-{_checksum(settings, train, test)}.pt"
        with torch.random.fork_rng([train.device] if train.device.type == "cuda" else []):
            torch.manual_seed(seed)
            features = cls(train.event_shape, int(train.y.max()) + 1, size)
            features.to(train.device).trained_on, features.seed = name, seed
            if file is not None and features._read(file):
                told = f"read from {file}: delete this file to train it again"
                _tell(f"the classifier for features is {told}", progress)
            else:
                kept = "is not kept" if file is None else f"will be kept in {file}"
                told = f"on {name} for features, {steps} steps; it {kept}"
                _tell(f"training a classifier {told}", progress)
                features._train(train, steps, progress)
                features.accuracy = features._accuracy(test)
                if file is not None:
                    features._write(file)
        return features.eval().requires_grad_(False)

    def _train(self, data: Dataset, steps: int, progress: bool) -> None:
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in tqdm(range(steps), desc="classifier", unit="step", disable=not progress):
            x, y = data.batch(torch.randint(len(data), (_BATCH,)))
            loss = cross_entropy(self.head(self(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def _accuracy(self, data: Dataset) -> float:
        with evaluating(self):
            right = [self.head(self(x)).argmax(1) == y for x, y in data.batches(_BATCH)]
        return float(torch.cat(right).double().mean())

    def _read(self, file: Path) -> bool:
        if not file.exists():
            return False
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            self.load_state_dict(content["state"])
            self.accuracy = float(content["accuracy"])
        except Exception:  # whatever a damaged file provokes in the reader: it is made again
            return False
        return True

    def _write(self, file: Path) -> None:
        buffer = io.BytesIO()
        torch.save({"state": self.state_dict(), "accuracy": self.accuracy}, buffer)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, buffer.getvalue())
        except OSError as error:
            warnings.warn(f"the features are not kept for the next time: {error}", stacklevel=3)

    def __repr__(self) -> str:
        """What it was trained on, its accuracy, and the seed that makes it again."""
        return (
            f"ClassifierFeatures({self.size}-d, trained on {self.trained_on or self.event_shape}, "
            f"accuracy {self.accuracy:.4f}, seed {self.seed})"
        )


def _tell(text: str, progress: bool) -> None:
    if progress:
        tqdm.write(text)


def _split(data: DataSplits | Dataset) -> tuple[Dataset, Dataset, str]:
    parts = (data.train, data.test) if isinstance(data, DataSplits) else (data,)
    for part in parts:
        if part.missing:
            complete(part.x)
    if isinstance(data, DataSplits):
        return *parts, f"the labels of {data.name}"
    held = torch.arange(len(data), device=data.device) % 10 == 9
    if not held.any():
        raise ValueError(f"data: expected at least 10 labelled data, got {len(data)}")
    return data[~held], data[held], f"{int((~held).sum())} labels"


def _checksum(settings: dict[str, object], *sets: Dataset) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for data in sets:
        digest.update(str(data.binarize).encode())
        for tensor in (data.x, data.y):
            digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of torchvision's Inception v3, from weights on this machine.

    Nothing is ever downloaded. Images in [0, 1] are repeated to three channels, resized to
    299 x 299 (bilinear, antialiased) and mapped to [-1, 1]. These are not the weights of the
    published FID values, so that the numbers cannot be compared with those.

    Source: "Rethinking the Inception Architecture for Computer Vision", Szegedy, Vanhoucke, Ioffe,
    Shlens, Wojna (2016).

    Args:
        weights: file of ``torchvision.models.Inception_V3_Weights.IMAGENET1K_V1``; default: where
            torchvision keeps it.

    Raises:
        FileNotFoundError: the weights are not there; it says how to get them.
    """

    resize: tuple[int, ...] | None = (299, 299)

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        from torchvision import models

        url = models.Inception_V3_Weights.IMAGENET1K_V1.url
        kept = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        file = kept if weights is None else Path(weights)
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: the weights of Inception v3 are not on this machine, and are never "
                f"downloaded by themselves: put the file of {url} there"
            )
        self.network = models.inception_v3(weights=None, init_weights=False)
        self.network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.network.transform_input = False
        self.network.fc = nn.Identity()
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, 2048) of images (n, h, w), (n, 1, h, w) or (n, 3, h, w) in [0, 1]."""
        x = x[:, None] if x.dim() == 3 else x
        x = x.expand(-1, 3, -1, -1)
        x = interpolate(x, size=self.resize, mode="bilinear", antialias=True)
        return self.network(2 * x - 1)

    def __repr__(self) -> str:
        """Name of the network."""
        return "InceptionFeatures(torchvision IMAGENET1K_V1)"
