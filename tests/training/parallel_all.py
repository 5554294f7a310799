"""Every short run of ``test_parallel``, after another: a start of torchrun takes seconds.

Run by torchrun: each process writes what it has trained to FOLDER/RANK.pt.
"""

import sys
from pathlib import Path

import covariate_cases
import parallel_cases
import parallel_methods
import torch
from parallel_cases import CASES, LOADERS, RANDOM, WRONG, run

from pyro_vae import ranks


def main(folder):
    torch.set_num_threads(1)
    with ranks.joined() as world:
        results = {name: run(make, 3) for name, make in CASES.items()}
        results |= {name: run(CASES["mean"], 3, *make) for name, make in LOADERS.items()}
        results["complaints"] = [parallel_cases.complaint(options) for options in WRONG.values()]
        results["numbers"] = [parallel_cases.noise(workers) for workers in (0, 2)]
        results |= {name: run(make, 40) for name, make in RANDOM.items()}
        results["covariates"] = {case: covariate_cases.run(case) for case in covariate_cases.CASES}
        results["methods"] = parallel_methods.run()
    torch.save(results, Path(folder) / f"{world.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
