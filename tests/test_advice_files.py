"""What is said about files and folders, and that its advice works."""

import errno
import functools
import gc
import importlib
import io
import os
import shutil
import sys
from unittest import mock

import pyro
import torch
from advice import Cases
from test_advice_training import X, fit
from torch import nn
from torch.utils.data import DataLoader

from pyro_vae import Trainer, callbacks, load, save
from pyro_vae.ground.files import expanded
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.storage.folder import RunFolder, fcntl
from pyro_vae.storage.sealed import seal

cases = Cases()


class During(callbacks.Callback):
    """Calls a function in a run."""

    def __init__(self, call):
        self.call = call

    def on_epoch_end(self, trainer, row, **kwargs):
        self.call()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@cases
def reading(tmp):
    path = tmp / "a.pt"
    t = fit()
    whole = lambda path=path: save(t, path)  # noqa: E731

    def damaged(change):
        def read():
            whole()
            content = bytearray(path.read_bytes())
            path.write_bytes(change(content))
            load(path)

        return read

    def again():
        whole()
        load(path)

    def copied():
        whole(tmp / "b.pt")
        shutil.copy(tmp / "b.pt", path)
        load(path)

    def changed(content):
        content[len(content) // 2] ^= 1
        return content

    yield damaged(changed), again, copied
    yield damaged(lambda content: content[:100]), again
    torch.save({"x": X}, path)
    yield lambda: load(path), again

    def forged(**changes):
        def read():
            whole()
            content = torch.load(path, weights_only=True)
            torch.save({**content, **changes}, path)
            load(path)

        return read

    yield forged(version="?"), again, copied
    yield forged(json="{"), again
    # To upgrade is no call
    yield forged(version=99), None
    whole()
    yield (
        lambda: load(path, expect=VAE),
        lambda: load(path, expect=Trainer),
        lambda: load(path),
    )
    yield (
        lambda: save(t, tmp / "new" / "a.pt"),
        lambda: (
            (tmp / "new").mkdir(),
            save(t, tmp / "new" / "a.pt"),
        ),
    )


class OwnAdam(torch.optim.Adam):
    pass


class OwnELBO(pyro.infer.Trace_ELBO):
    pass


class OwnEncoder(nn.Linear):
    pass


def own(**options):
    model = VAE((3,), 2, hidden=(4,), likelihood=Gaussian())
    return Trainer(model, BottomUp(model, encoder=OwnEncoder(3, 4)), **options)


@cases
def writing(tmp):
    path, net = tmp / "a.pt", nn.Linear(1, 1)
    yield lambda: save(net, path), lambda: torch.save(net.state_dict(), path)

    def parts():
        return {"model": (t := own()).model, "guide": t.guide}

    def by_hand():
        save(own(), path, arguments=False)
        load(path, **parts())

    yield lambda: save(own(), path), by_hand
    given = parts()
    yield lambda: load(path), by_hand
    yield lambda: load(path, model=given["model"]), lambda: load(path, **given)
    save(own(optimizer=OwnAdam), path, arguments=False)
    yield lambda: load(path, **given), lambda: load(path, **given, optimizer=OwnAdam)
    save(own(elbo=OwnELBO()), path, arguments=False)
    yield lambda: load(path, **given), lambda: load(path, **given, elbo=OwnELBO())
    (tmp / "own_models.py").write_text(
        "from pyro_vae.models import VAE\n\n\nclass OwnVAE(VAE):\n    pass\n"
    )
    with mock.patch.object(sys, "path", [str(tmp), *sys.path]):
        model = importlib.import_module("own_models").OwnVAE((3,), 2, likelihood=Gaussian())
        save(model, path)
        del sys.modules["own_models"], model
        gc.collect()
        yield lambda: load(path), lambda: (importlib.import_module("own_models"), load(path))
        del sys.modules["own_models"]
    absent = "~nobody-of-this-name/runs"
    home = lambda path: expanded("--out", path)  # noqa: E731
    yield lambda: home(absent), lambda: home(tmp / "runs")


def begun(folder):
    """A run of two epochs of two steps that was ended after its third."""
    fit(epochs=2, batch_size=4, checkpoint=folder, every=1)
    max(folder.glob("step-*.pt")).unlink()
    return Trainer.resume(folder)


@cases
def newer(tmp):
    begun(tmp)
    path = max(tmp.glob("step-*.pt"))
    content = torch.load(path, weights_only=True)
    content["version"] += 1
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(seal(buffer.getvalue()))
    folder = RunFolder(tmp)

    def write():
        with folder.held(0, {folder.where: path.name}):
            pass

    # A newer version is not at hand
    yield write, None


@cases
def folders(tmp):
    (tmp / "file").write_text("")
    another = functools.partial(fit, checkpoint=tmp / "another")
    yield lambda: fit(checkpoint=tmp / "file" / "a"), another
    yield lambda: fit(every=3), lambda: fit(every=3, checkpoint=tmp / "every")
    empty = tmp / "empty"
    yield (
        lambda: Trainer.resume(empty),
        lambda: (fit(checkpoint=empty), Trainer.resume(empty)),
    )
    held = tmp / "held"

    def nested():
        fit(checkpoint=held, callbacks=[During(lambda: fit(checkpoint=held))])

    def apart():
        fit(checkpoint=tmp / "one", callbacks=[During(lambda: fit(checkpoint=tmp / "two"))])

    yield nested, apart
    first = tmp / "first"
    fit(checkpoint=first)
    yield (
        lambda: fit(checkpoint=first),
        lambda: fit(Trainer.resume(first), epochs=2),
        lambda: fit(checkpoint=tmp / "other"),
    )
    saved = tmp / "saved"
    saved.mkdir()
    fit().save(saved / "step-000000001.pt")
    yield lambda: Trainer.resume(saved), lambda: load(saved / "step-000000001.pt")

    def flock(handle, how):
        raise OSError(errno.ENOLCK, "no locks")

    without = mock.patch.object(fcntl, "flock", flock)
    yield without(lambda: fit(checkpoint=tmp / "unlocked")), lambda: fit(checkpoint=tmp / "own")
    loader = DataLoader(X)

    def saved_after_each():
        t = fit(data=loader)
        t.save(tmp / "t.pt")
        fit(load(tmp / "t.pt"), loader)

    yield lambda: fit(data=loader, checkpoint=tmp / "loader"), saved_after_each

    class Bare:
        def on_epoch_end(self, trainer, **kwargs):
            pass

    class Kept(Bare):
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    bare = functools.partial(fit, callbacks=[Bare()])
    yield (
        lambda: bare(checkpoint=tmp / "bare"),
        bare,
        lambda: fit(callbacks=[Kept()], checkpoint=tmp / "kept"),
    )


@cases
def going_on(tmp):
    def resumed(name, data=X, **options):
        t = begun(tmp / name)
        return t.fit(data, progress=False, **options)

    yield lambda: resumed("short", epochs=1), lambda: resumed("short2")
    newest = lambda name: max((tmp / name).glob("step-*.pt"))  # noqa: E731
    yield (
        lambda: resumed("other", data=2 * X),
        lambda: resumed("same", data=X),
        lambda: fit(load(newest("other")), 2 * X, epochs=2),
    )
    several = begun(tmp / "several")
    several.state.run.each *= 2
    # Runs of several processes go on in test_parallel_runs.py
    yield lambda: several.fit(X, progress=False), lambda: fit(load(newest("several")))
    full = tmp / "full"
    disk = mock.patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "No space left"))

    def fill():
        begun(full)
        with disk:
            fit(Trainer.resume(full), epochs=2)

    yield fill, lambda: Trainer.resume(full).fit(X, progress=False)


test_the_advice_works_on_what_provokes_it = cases.test()
