"""What the tests of steps share."""

import pytest

from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


@pytest.fixture
def pair():
    vae = VAE((6,), (4, 3), likelihood=Gaussian(0.7), hidden=(5,))
    return vae, BottomUp(vae)
