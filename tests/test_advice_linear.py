"""What is said about linear paths and the tables of experiments, and that its advice works."""

import sys
from unittest import mock

import torch
from advice import Cases
from torch import nn

from pyro_vae.experiments import pca, real_tables
from pyro_vae.guides import BottomUp, linear_start
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.networks import MLP, ConvDecoder, Shortcut

N, D = 12, 4
cases = Cases()


def vae(latents=2, **options):
    given = {"likelihood": Gaussian("learned"), "decoder": Shortcut(2, (D,)), **options}
    return VAE((D,), latents, **given)


@cases
def linear_paths(tmp):
    x = torch.randn(N, D)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.output_layer = nn.Linear(2, D)

        def forward(self, z):
            return self.output_layer(z)

    yield (
        lambda: Shortcut(2, (D,), nn.Linear(2, D)),
        lambda: Shortcut(2, (D,), MLP((2,), (3,), (D,))),
        lambda: Shortcut(2, (3, 4), ConvDecoder(2, (3, 4), event_dim=2)),
        lambda: Shortcut(2, (D,), Own())(torch.zeros(1, 2)),
    )
    yield lambda: linear_start(BottomUp(vae()), x), lambda: linear_start(vae(), x)
    plain = vae(decoder=None)
    yield lambda: linear_start(plain, x), lambda: linear_start(vae(), x), lambda: BottomUp(plain)
    yield (
        lambda: linear_start(vae(), x[:2]),
        lambda: linear_start(vae(), x),
        lambda: linear_start(vae(1, decoder=Shortcut(1, (D,))), x[:3]),
    )


@cases
def tables_of_packages(tmp):
    def others():
        return pca.main(["--quick", "--tables", "wine", "--out", str(tmp), "--threads", "1"])

    yield lambda: pca.main(["--data", "mnist", "--out", str(tmp)]), others

    def without():
        with mock.patch.dict(sys.modules, {"h5py": None}):
            real_tables.load(real_tables.TABLES["single cells"])

    # Which packages are missing depends on the machine
    yield without, others
    yield lambda: real_tables.shipped("no_such_package", "table.csv"), None
    yield lambda: real_tables.shipped("sklearn", "datasets/data/none.csv"), others


test_the_advice_works_on_what_provokes_it = cases.test()
