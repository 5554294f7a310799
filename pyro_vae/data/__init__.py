"""Data sets as tensors on the device, gathered into batches without a data loader.

| source | event shape | labels | test split | binarised by default |
|---|---|---|---|---|
| ``"digits"`` | (1, 8, 8) | 10 | 360 of 1797, fixed, stratified | dynamic |
| ``"mnist-small"`` | (1, 28, 28) | 10 | 1000 beside 4000, the first of MNIST | dynamic |
| ``"mnist"``, ``"fashion-mnist"`` | (1, 28, 28) | 10 | its own 10,000 | dynamic |
| ``"omniglot"`` | (1, 28, 28) | 964 + 659 characters | evaluation alphabets | dynamic |
| ``"omniglot", split="iwae"`` | (1, 28, 28) | 50 alphabets | its own 8,070 | dynamic |
| ``"cifar10"`` | (3, 32, 32) | 10 | its own 10,000 | no |
| ``"shapes"`` | (1, 32, 32) or ``size`` | 3, and 5 factors | ``test_fraction`` | dynamic |
| ``"tones"`` | (1, 2048) | 5 vowels, and 4 factors | ``test_fraction`` | no |
| ``"bouncing"`` | (1, 16, 32, 32) | 3, and 5 factors | ``test_fraction`` | dynamic |
| folder of images | (3 or 1, h, w) | class folders, if any | its own or ``test_fraction`` | no |
| folder of ``.dcm``, ``.nii`` | (1, ...) | none | ``test_fraction`` | no |
| folder of ``.wav``, or one | (channels, samples) | class folders, if any | as of images | no |
| ``.npy``, ``.npz``, ``.mat``, ``.pt`` | any | optional | its own or ``test_fraction`` | no |
| ``.csv``, ``.tsv``, ``.txt``, ``.parquet`` | (columns,) | a column | ``test_fraction`` | no |
| ``.txt`` under ``kind="tokens"``, list of lines | (t,) | none | ``test_fraction`` | no |
| ``.h5ad`` | (genes,) | none | ``test_fraction`` | no |
| tensor, array, table, ``Dataset``, ... | any | as given | ``test_fraction`` | as given |

Of a table, ``d.columns`` tells name and kind of each column, and ``d.train.to_frame(x)`` makes a
frame of rows such as ``vae.sample(10)``; ``likelihoods.for_columns(d)`` is its likelihood.
A model with that likelihood knows the columns: ``vae.sample(10).to_frame()``. Empty cells are NaN,
missing values, and labels that are missing -1. ``load("t.csv", labels=["site"], numbers=["age"],
exposure="total")`` has these columns as labels, ``d.train.y["age"]``, for
``models.Covariates.standardized(d.train)``. Of text ``d.vocabulary`` tells what the numbers stand
for, ``likelihoods.Tokens(d.vocabulary)`` is its likelihood. Of sound ``d.rate`` are the samples
per second; ``read_wav`` and ``write_wav`` are for single files. ``write`` puts samples, codes and
other values into files; ``d.whole()`` is a source undivided, in its order.

Example:
    >>> from pyro_vae import data
    >>> d = data.load("digits")
    >>> d
    DataSplits('digits', event_shape=(1, 8, 8), kind='image', labels=10
      train=Dataset(1437 x (1, 8, 8), labels=10, binarize='dynamic')
      test=Dataset(360 x (1, 8, 8), labels=10, binarize=None))
    >>> x, y = next(d.train.batches(128, shuffle=True))
    >>> x.shape, x.unique(), y.shape
    (torch.Size([128, 1, 8, 8]), tensor([0., 1.]), torch.Size([128]))
"""

from .arguments import Arguments
from .bouncing import bouncing, render_bouncing
from .columns import Column, Rows
from .dataset import Dataset
from .loading import NAMES, load
from .sound import read_wav, write_wav
from .splits import DataSplits
from .sprites import render_shapes, shapes
from .text import Vocabulary
from .tones import render_tones, tones
from .translations import LanguagePair, language_pair
from .writing import write

__all__ = [
    "NAMES",
    "Arguments",
    "Column",
    "DataSplits",
    "Dataset",
    "LanguagePair",
    "Rows",
    "Vocabulary",
    "bouncing",
    "language_pair",
    "load",
    "read_wav",
    "render_bouncing",
    "render_shapes",
    "render_tones",
    "shapes",
    "tones",
    "write",
    "write_wav",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
