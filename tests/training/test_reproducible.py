"""Two runs with one seed, in two processes."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import torch
torch.set_num_threads(1)
from pyro_vae import Trainer, data, guides, likelihoods, schedules
from pyro_vae.models import VAE
torch.manual_seed(0)
grey = data.Dataset(torch.rand(50, 6, generator=torch.Generator().manual_seed(1)),
                    binarize="dynamic")
vae = VAE((6,), (3, 2), likelihood=likelihoods.Bernoulli(), hidden=(8,), norm=torch.nn.BatchNorm1d)
trainer = Trainer(vae, guides.Ladder(vae), beta=schedules.WarmUp(epochs=5), seed=0)
trainer.fit(grey, validation=grey[:20], epochs=8, batch_size=8, progress=False)
for row in trainer.history:
    del row["seconds"]
print(trainer.history.to_json())
"""


def test_one_seed_gives_one_history_in_two_processes():
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": str(i)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    one, other = (run.communicate(timeout=300)[0] for run in runs)
    assert one == other and '"epoch": 8,' in one
