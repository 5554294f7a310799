"""Short runs with covariates that must not depend on the number of processes.

Run by torchrun: each process writes what it has trained to FOLDER/RANK.pt.
"""

import sys
from pathlib import Path

import parallel_cases
import torch
from torch.utils.data import DataLoader

from pyro_vae import data, guides, likelihoods, models, ranks

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


def main(folder):
    torch.set_num_threads(1)
    with ranks.joined() as world:
        results = {case: run(case) for case in CASES}
    torch.save(results, Path(folder) / f"{world.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
