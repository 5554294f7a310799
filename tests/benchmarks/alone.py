"""Whole scripts, each in a process of its own, as a person would write them.

Run: PYTHONPATH=. python tests/benchmarks/alone.py SCRIPT DATA GOAL SEED

It imports, trains the 784-400-400-20 Bernoulli VAE at batch 128 with Adam, 1e-3, and prints one
line of JSON. With "-" as DATA that is one step on random data; else on MNIST of that folder,
binarised afresh in each epoch, until the bound of its test data after an epoch is above GOAL.
``start_time.py`` and ``time_to_bound.py`` let several of them alternate.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

BATCH, LATENTS, HIDDEN, RATE, MOST_EPOCHS = 128, 20, (400, 400), 1e-3, 100
OURS, BY_HAND, SCRIPT, PYTHAE = "pyro_vae", "hand-written PyTorch", "usual Pyro script", "pythae"


def pyro_vae(folder: str, goal: float, seed: int) -> list[float]:
    """This library."""
    import torch

    from pyro_vae import Trainer, data, guides, likelihoods, models

    torch.manual_seed(seed)
    vae = models.VAE((784,), LATENTS, hidden=HIDDEN, likelihood=likelihoods.Bernoulli())
    trainer = Trainer(vae, guides.BottomUp(vae), lr=RATE, seed=seed)
    if folder == "-":
        x = (torch.rand(BATCH, 784) < 0.3).float()
        trainer.fit(x, epochs=1, progress=False)
        return [row["elbo"] for row in trainer.history]

    class Reached:
        def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
            if row["validation"]["elbo"] > goal:
                trainer.stop()

    splits = data.load("mnist", root=folder, binarize="dynamic")
    train, test = (
        part.replace(x=part.x.flatten(1), kind="vector") for part in (splits.train, splits.test)
    )
    trainer.fit(train, validation=test, epochs=MOST_EPOCHS, callbacks=[Reached()], progress=False)
    return [row["validation"]["elbo"] for row in trainer.history]


def hand_written(folder: str, goal: float, seed: int) -> list[float]:
    """Plain PyTorch: data in memory, a fused Adam."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    torch.manual_seed(seed)
    encoder, decoder = _networks(nn, nn.ReLU)
    optimizer = torch.optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True
    )

    def loss_of(x: Tensor) -> Tensor:
        loc, scale = encoder(x).chunk(2, -1)
        scale = F.softplus(scale)
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        kl = (0.5 * (z.square() - noise.square()) - scale.log()).sum()
        logits = decoder(z)
        return (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)

    def step(x: Tensor) -> float:
        loss = loss_of(x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return -loss.item()

    if folder == "-":
        return [step((torch.rand(BATCH, 784) < 0.3).float())]
    from torchvision.datasets import MNIST

    train, test = (
        MNIST(folder, train=train).data.flatten(1).float() / 255 for train in (True, False)
    )
    found: list[float] = []
    while not found or (found[-1] < goal and len(found) < MOST_EPOCHS):
        for rows in torch.randperm(len(train)).split(BATCH):
            step(torch.bernoulli(train[rows]))
        with torch.no_grad():
            bounds = [-float(loss_of(torch.bernoulli(x))) * len(x) for x in test.split(500)]
        found.append(sum(bounds) / len(test))
    return found


def usual_script(folder: str, goal: float, seed: int) -> list[float]:
    """As Pyro's tutorial has it: a ``DataLoader``, ``pyro.infer.SVI``, ``pyro.optim.Adam``."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import Adam
    from torch import Tensor, nn
    from torch.nn import functional as F

    pyro.set_rng_seed(seed)
    encoder, decoder = _networks(nn, nn.ReLU)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(len(x), LATENTS), x.new_ones(len(x), LATENTS))
            z = pyro.sample("latent", prior.to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, scale = encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, F.softplus(scale)).to_event(1))

    svi = SVI(model, guide, Adam({"lr": RATE}), loss=Trace_ELBO())
    if folder == "-":
        return [-svi.step((torch.rand(BATCH, 784) < 0.3).float()) / BATCH]
    from torch.utils.data import DataLoader
    from torchvision.datasets import MNIST
    from torchvision.transforms import ToTensor

    train, test = (
        DataLoader(MNIST(folder, train=train, transform=ToTensor()), BATCH, shuffle=train)
        for train in (True, False)
    )
    found: list[float] = []
    while not found or (found[-1] < goal and len(found) < MOST_EPOCHS):
        for x, _ in train:
            svi.step(torch.bernoulli(x.flatten(1)))
        bounds = [-svi.evaluate_loss(torch.bernoulli(x.flatten(1))) for x, _ in test]
        found.append(sum(bounds) / len(test.dataset))
    return found


def pythae(folder: str, goal: float, seed: int) -> list[float]:
    """Its trainer, with data that are binarised as they are read."""
    import torch
    from pythae.data.datasets import BaseDataset, DatasetOutput
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback
    from torch import Tensor, nn

    networks = _networks(nn, nn.ReLU)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = networks[0]

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = networks[1]

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    class Binarized(BaseDataset):
        def __getitem__(self, index: int) -> DatasetOutput:
            return DatasetOutput(data=torch.bernoulli(self.data[index]), labels=0.0)

    class Reached(Exception):
        """Its trainer has no other way to end early."""

    found: list[float] = []

    class Stop(TrainingCallback):
        def on_log(self, training_config: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            found.append(-float(logs["eval_epoch_loss"]))
            if found[-1] > goal:
                raise Reached

    if folder == "-":
        train = test = torch.full((BATCH, 784), 0.3)
    else:
        from torchvision.datasets import MNIST

        train, test = (
            MNIST(folder, train=train).data.flatten(1).float() / 255 for train in (True, False)
        )
    config = VAEConfig((784,), latent_dim=LATENTS, reconstruction_loss="bce")
    with tempfile.TemporaryDirectory() as out:
        trainer = BaseTrainer(
            VAE(config, Encoder(), Decoder()),
            *(Binarized(x, torch.zeros(len(x))) for x in (train, test)),
            BaseTrainerConfig(
                output_dir=out,
                learning_rate=RATE,
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=500,
                num_epochs=1 if folder == "-" else MOST_EPOCHS,
                seed=seed,
                no_cuda=True,
            ),
            [Stop()],
        )
        try:
            trainer.train()
        except Reached:
            pass
    return found


def _networks(nn: Any, activation: Callable) -> tuple[Any, Any]:
    """Encoder and decoder of ``torch.nn``."""

    def network(*sizes: int) -> Any:
        layers: list[Any] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), activation()]
        return nn.Sequential(*layers[:-1])

    return network(784, *HIDDEN, 2 * LATENTS), network(LATENTS, *reversed(HIDDEN), 784)


SCRIPTS = {OURS: pyro_vae, BY_HAND: hand_written, SCRIPT: usual_script, PYTHAE: pythae}


def here() -> list[str]:
    """Those whose packages are installed."""
    return [name for name in SCRIPTS if name != PYTHAE or importlib.util.find_spec("pythae")]


def measured(
    name: str, folder: str = "-", goal: float = 0.0, seed: int = 0, threads: int = 1
) -> dict[str, Any]:
    """Seconds by the clock and of the processor, of a process from its start to its end."""
    # Byte code is written and read, as of installed packages
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["OMP_NUM_THREADS"] = str(threads)
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, __file__, name, folder, str(goal), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    return {"s": seconds, "processor s": spent, "bounds": json.loads(done.stdout.splitlines()[-1])}


def rows_of(rounds: Sequence[dict[str, dict[str, Any]]], bases: Sequence[str]) -> list[dict]:
    """A row per script: medians, and median ratios of processor time to bases of the round."""
    rows = []
    for name in rounds[0]:
        runs = [r[name] for r in rounds]
        row: dict[str, Any] = {"name": name}
        for key in ("s", "processor s"):
            row[key] = statistics.median(run[key] for run in runs)
        for base in bases:
            ratios = (r[name]["processor s"] / r[base]["processor s"] for r in rounds)
            row[f"/ {base}"] = statistics.median(ratios)
        rows.append(row)
    return rows


if __name__ == "__main__":
    _, script, folder, goal, seed = sys.argv
    print(json.dumps(SCRIPTS[script](folder, float(goal), int(seed))))
