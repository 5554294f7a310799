"""Runs of several processes with checkpoints; ``test_distributed_runs`` starts them by torchrun.

Each process writes what its trainers were in the end to FOLDER/RANK.pt.
"""

import errno
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from pyro_vae import Trainer, data, guides, likelihoods, models, ranks
from pyro_vae.callbacks import Callback
from pyro_vae.ground import signals

GREY = data.Dataset(
    torch.rand(50, 6, generator=torch.Generator().manual_seed(1)), binarize="dynamic"
)
EVERY, EPOCHS, STEPS = 4, 3, 5  # steps of an epoch, of 11 data, the last of 6


def trainer():
    torch.manual_seed(0)
    vae = models.VAE((6,), 2, likelihood=likelihoods.Bernoulli(), hidden=(8,), norm=nn.BatchNorm1d)
    return Trainer(vae, guides.BottomUp(vae), seed=0, lr=1e-2)


def fit(t, **options):
    return t.fit(GREY, **{"epochs": EPOCHS, "batch_size": 11, "progress": False, **options})


class At(Callback):
    """Do something after a step."""

    def __init__(self, step=-1, action=None):
        self.step, self.action = step, action

    def on_step_end(self, trainer, **kwargs):
        if trainer.step == self.step:
            self.action()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def outcome(t):
    """All that a run leaves in this process."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in t.history]
    states = [m for p in t.parameters() for m in t.optimizer.state[p].values()]
    tensors = [v for module in t.modules() for v in module.state_dict().values()]
    tensors = [v.clone() for v in (*tensors, *states, *t.state_dict()["random"].values())]
    return {"tensors": tensors, "rows": rows, "step": t.step}


def on_from_each(folder, into):
    """What runs become that go on from each checkpoint but the last."""
    *found, last = sorted(folder.glob("step-*.pt"))
    results = []
    for i, path in enumerate(found):
        copy = into / str(i)
        others = shutil.ignore_patterns("lock", *(p.name for p in found if p != path), last.name)
        ranks.by_first(partial(shutil.copytree, folder, copy, ignore=others))
        results.append(outcome(Trainer.resume(copy).fit(GREY, progress=False)))
    return results


def read_before_joining(run, folder):
    """Go on with a trainer that was read while the process was still alone."""
    newest = min(run.glob("step-*.pt"))
    ranks.by_first(lambda: (folder.mkdir(), shutil.copy(newest, folder)))
    with mock.patch.object(ranks, "_world", None):
        t = Trainer.resume(folder)
    return outcome(t.fit(GREY, progress=False))


def interrupted(folder, number, rank):
    """Send one process a signal, and go on afterwards."""
    t, send = trainer(), lambda: rank == ranks.rank() and os.kill(os.getpid(), number)
    status = None
    try:
        # At every step, for this run is over in less than a tenth of a second
        with mock.patch.object(signals, "_SECONDS", 0.0):
            fit(t, checkpoint=folder, callbacks=[At(7, send)])
    except SystemExit as error:
        status = error.code
    again = Trainer.resume(folder).fit(GREY, callbacks=[At()], progress=False)
    left = {"step": t.step, "status": status, "last": dict(t.history[-1])}
    return left, outcome(again)


def full_disk(folder):
    """The disk of process 0 has room for two checkpoints."""
    replace, written = os.replace, []

    def fail(path, target):
        written.append(target)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(path, target)

    os.replace, t = fail, trainer()
    try:
        fit(t, checkpoint=folder, every=EVERY)
    except OSError as error:
        told = [error.errno, str(error), t.step, len(written)]
    finally:
        os.replace = replace
    return told, outcome(Trainer.resume(folder).fit(GREY, progress=False))


def complaint(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def main(folder):
    torch.set_num_threads(1)
    folder, results = Path(folder), {}
    with ranks.joined() as world:
        results["plain"] = outcome(fit(trainer()))
        run = folder / "run"
        results["written"] = outcome(fit(trainer(), checkpoint=run, every=EVERY, keep=99))
        results["again"] = on_from_each(run, folder / "copies")
        results["SIGINT"] = interrupted(folder / "SIGINT", signal.SIGINT, world.size - 1)
        results["SIGTERM"] = interrupted(folder / "SIGTERM", signal.SIGTERM, 0)
        results["full"] = full_disk(folder / "full")
        results["read before"] = read_before_joining(folder / "copies" / "1", folder / "before")
        results["more"] = outcome(Trainer.resume(run).fit(GREY, epochs=4, progress=False))
        results["longer"] = outcome(fit(trainer(), epochs=4))
        here = None if world.rank else folder / "other"
        results["complaints"] = [
            complaint(lambda: fit(trainer(), checkpoint=run)),
            complaint(lambda: fit(trainer(), checkpoint=here)),
        ]
    torch.save(results, folder / f"{world.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
