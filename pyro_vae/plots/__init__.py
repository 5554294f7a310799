"""Pictures of a pair and its data: each returns its matplotlib ``Figure`` or ``Axes``.

| picture | what it shows | returns |
|---|---|---|
| ``images`` | data | ``Axes`` |
| ``samples``, ``conditional`` | draws from the model, also by label | ``Axes`` |
| ``reconstructions``, ``denoising`` | E[x given z] at the posterior means | ``Figure`` |
| ``outliers`` | the data with the lowest log p(x) | ``Figure`` |
| ``interpolation``, ``traversals``, ``latent_grid`` | latent space, decoded | ``Axes`` |
| ``codes``, ``completions`` | codes of a VQ-VAE, decoded; grids of codes, completed | ``Axes`` |
| ``code_maps`` | which code is where, along time frame by frame | ``Axes`` |
| ``spectrograms`` | how loud each frequency of signals is over time | ``Figure`` |
| ``animation`` | videos, moving | ``Animation``, a GIF |
| ``latent_scatter``, ``latent_map`` | posterior means, coloured by label or score | ``Axes`` |
| ``collapse`` | KL, mutual information and active units | ``Figure`` |
| ``uncertainty`` | data, E[x given z] and sigma(z) | ``Figure`` |
| ``calibration`` | fractions of the data within w sigma(z) | ``Axes`` |
| ``history`` | training curves | ``Figure`` |
| ``active_units`` | active units and KL of each layer while training | ``Figure`` |
| ``unit_kl`` | KL of each latent unit while training, unit x epoch | ``Figure`` |
| ``kl_maps`` | KL of each position of latents that are maps | ``Figure`` |
| ``layer_samples`` | what each layer of a hierarchy adds | ``Axes`` |

A datum of shape (h, w), (1, h, w) or (3, h, w) is an image, its values clipped to [0, 1] for
display; text, of a model that knows its vocabulary, is written as lines; any other datum is
flattened to a vector and drawn as a row of a heat-map.

Models and guides may be the library's or your own functions, with any site names. They are run
in evaluation mode; a picture leaves their training mode and torch's global RNG as they were, but
for what it draws at random: ``samples``, ``conditional``, ``completions``, and the noise of
``denoising``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .curves import active_units, history
    from .deviations import calibration, uncertainty
    from .discrete import code_maps, codes, completions
    from .frequencies import spectrograms
    from .information import collapse
    from .latent import interpolation, latent_grid, traversals
    from .layers import layer_samples
    from .pictures import conditional, denoising, images, outliers, reconstructions, samples
    from .positions import kl_maps
    from .scatter import latent_map, latent_scatter
    from .units import unit_kl
    from .videos import Animation, animation

__all__ = [
    "Animation",
    "active_units",
    "animation",
    "calibration",
    "code_maps",
    "codes",
    "collapse",
    "completions",
    "conditional",
    "denoising",
    "history",
    "images",
    "interpolation",
    "kl_maps",
    "latent_grid",
    "latent_map",
    "latent_scatter",
    "layer_samples",
    "outliers",
    "reconstructions",
    "samples",
    "spectrograms",
    "traversals",
    "uncertainty",
    "unit_kl",
]

# Picture -> its file; no file has the name of a picture, which importing it would hide
_PLACES = {
    "Animation": "videos",
    "active_units": "curves",
    "animation": "videos",
    "calibration": "deviations",
    "code_maps": "discrete",
    "codes": "discrete",
    "collapse": "information",
    "completions": "discrete",
    "conditional": "pictures",
    "denoising": "pictures",
    "history": "curves",
    "images": "pictures",
    "interpolation": "latent",
    "kl_maps": "positions",
    "latent_grid": "latent",
    "latent_map": "scatter",
    "latent_scatter": "scatter",
    "layer_samples": "layers",
    "outliers": "pictures",
    "reconstructions": "pictures",
    "samples": "pictures",
    "spectrograms": "frequencies",
    "traversals": "latent",
    "uncertainty": "deviations",
    "unit_kl": "units",
}


if not TYPE_CHECKING:  # for type checkers there are no other names than those above

    def __getattr__(name: str) -> Any:
        """A picture, imported with matplotlib when it is asked for."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        file = importlib.import_module(f".{_PLACES[name]}", __name__)
        globals()[name] = found = getattr(file, name)
        return found


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
