"""Programs of our own in the shape of those that Pyro publishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from . import autoencoders, factors, mixtures, partly_labelled, regressions, sequences
from .pair import Pair
from .swapped import FAMILIES
from .uses import USES

# Where the shape was published -> what makes such a pair anew
PUBLISHED: dict[str, Callable[[], Pair]] = {
    "vae": autoencoders.vae,
    "vae with a flow": autoencoders.flow_vae,
    "cvae": autoencoders.cvae,
    "air": autoencoders.air,
    "prodlda": autoencoders.prodlda,
    "ss_vae_M2": partly_labelled.ss_vae,
    "ss_vae_M2, unlabelled": partly_labelled.ss_vae_unlabelled,
    "scanvi": partly_labelled.scanvi,
    "scanvi, unlabelled": partly_labelled.scanvi_unlabelled,
    "cevae": partly_labelled.cevae,
    "dmm": sequences.dmm,
    "hmm": sequences.hmm,
    "capture_recapture": sequences.capture_recapture,
    "forecast": sequences.forecast,
    "profile_hmm": sequences.profile_hmm,
    "lda": factors.lda,
    "sparse_gamma_def": factors.sparse_gamma,
    "easyguide": factors.easy_guide,
    "matrix": factors.matrix,
    "eight_schools": regressions.eight_schools,
    "baseball": regressions.baseball,
    "bayesian_regression": regressions.rugged,
    "svi_horovod": regressions.horovod,
    "bayesian_regression_ii": regressions.bayesian_linear,
    "robust regression": regressions.robust_regression,
    "svi_part_i": regressions.coin,
    "lkj": regressions.lkj,
    "gplvm": regressions.gplvm,
    "sv-dkl": regressions.deep_kernel,
    "neutra": regressions.neutra,
    "inclined_plane": regressions.inclined_plane,
    "gmm": mixtures.gmm,
    "dirichlet_process": mixtures.dirichlet_process,
    "toy_mixture": mixtures.toy_mixture,
}

# Programs with parameters that get no gradient under these data, as under stock Pyro
UNTRAINED = ("cvae", "ss_vae_M2")
# Programs that have their data themselves: there is nothing to validate them on
WITHOUT_DATA = ("forecast", "lda", "svi_part_i", "gplvm", "sv-dkl", "neutra", "inclined_plane")
CELLS = [
    (name, use)
    for name in PUBLISHED
    for use in USES
    if not (name in WITHOUT_DATA and use == "validation")
]
OUTCOMES = Path(__file__).parent / "outcomes.json"
_found = json.loads(OUTCOMES.read_text())
# (program, use) -> the line with which it is refused, and that of the warning with which it works;
# (program, guide of the library) -> the line with which it is refused
REFUSED, TOLD, UNBUILT = (
    {(name, use): line for name, lines in _found[kind].items() for use, line in lines.items()}
    for kind in ("refused", "told", "unbuilt")
)
SWAPS = [(name, family) for name in PUBLISHED for family in FAMILIES]
