"""A file, ways to change it, and loading under a guard."""

import contextlib
import functools
import io
import json
import os
import resource
import signal

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, guides, likelihoods, load
from pyro_vae.models import VAE
from pyro_vae.storage.sealed import seal

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))


def trained(guide=guides.BottomUp):
    torch.manual_seed(0)
    model = VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(0.5), hidden=(8,), norm=nn.LayerNorm)
    t = Trainer(model, guide(model), seed=0)
    return t.fit(X, epochs=2, batch_size=10, progress=False)


@functools.cache
def whole():
    """The bytes of a trainer's file, and of an archive of its content without a checksum."""
    buffer = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pyro_vae.storage.archive.write_atomically", lambda _, data: buffer.write(data)
        )
        trained().save("file.pt")
    return buffer.getvalue()


def content():
    return torch.load(io.BytesIO(whole()), weights_only=True)


def archive(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def described(change):
    value = content()
    description = json.loads(value["json"])
    change(description)
    value["json"] = json.dumps(description)
    return seal(archive(value))


class Slow(Exception):
    """Not the library's."""


@contextlib.contextmanager
def guarded(seconds=20):
    """No more than so much time, and no memory in the order of a forged size."""

    def late(*args):
        raise Slow

    before = signal.signal(signal.SIGALRM, late)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 500_000  # kB


def loaded(path, data):
    """What ``load`` makes of a file: an object, or the library's error that names the file."""
    path.write_bytes(data)
    with guarded():
        try:
            return load(path)
        except ValueError as error:
            message = str(error)
    assert message.startswith(f"{path}: ") and len(message) > len(str(path)) + 10
    assert "alloc" not in message and "weights_only" not in message
    return message


HUGE = 10**12


def branches(value):
    """Every container in JSON data, with the key of each of its items."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from branches(value[key])


class Touch:
    """Pickled, a call that creates a folder when it is unpickled."""

    def __init__(self, path, call=os.mkdir):
        self.path, self.call = str(path), call

    def __reduce__(self):
        return self.call, (self.path,)
