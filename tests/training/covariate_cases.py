"""Short runs with covariates that must not depend on the number of processes."""

import parallel_cases
import torch
from torch.utils.data import DataLoader

from pyro_vae import data, guides, likelihoods, models

N = 50
GENERATOR = torch.Generator().manual_seed(2)
Y = {
    "site": torch.arange(N) % 3,
    "age": torch.randn(N, generator=GENERATOR),
    "exposure": torch.rand(N, generator=GENERATOR) + 0.5,
}
X = torch.poisson(2 * Y["exposure"][:, None].expand(N, 6), generator=GENERATOR)


def part(rows):
    return data.Dataset(X[rows], {name: values[rows] for name, values in Y.items()})


def loader(rows, **options):
    items = [(X[i], {name: values[i] for name, values in Y.items()}) for i in range(N)[rows]]
    return DataLoader(items, batch_size=11, **options)


def shuffled(rows):
    return loader(rows, shuffle=True, generator=torch.Generator().manual_seed(5))


def pair():
    given = models.Covariates(classes={"site": 3}, numbers=("age",), offset=True)
    noise = likelihoods.Poisson()
    vae = models.VAE((6,), (3, 2), likelihood=noise, condition=given, **parallel_cases.SMALL)
    return (vae, guides.Delta(vae)), {"lr": 1e-3}


CASES = {"data": part, "loader": shuffled}


def run(case):
    made = CASES[case]
    return parallel_cases.run(pair, 3, lambda: made(slice(N)), lambda: made(slice(7)))
