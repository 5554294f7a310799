"""Files mutated at random: refused in time and memory, or as they were."""

import contextlib
import io
import json
import os
import pickle
import random
import warnings
import zipfile

import pytest
import torch
from damaged import HUGE, Touch, X, archive, branches, content, described, guarded, loaded, whole

from pyro_vae import Trainer
from pyro_vae.storage.sealed import seal


def flipped(rng, data):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncated(rng, data):
    return data[: rng.randrange(len(data))]


def lengthened(rng, data):
    at = rng.choice([0, len(data), rng.randrange(len(data))])
    more = rng.choice([bytes(1), rng.randbytes(rng.randrange(1, 100)), data, data[:50]])
    return data[:at] + more + data[at:]


def sealed(mutate):
    """The same mutation by somebody who knows the format."""

    def forge(rng, data):
        return seal(mutate(rng, archive(content())))

    return forge


VALUES = (None, True, -1, 0, 1, 2, 7, 1.5, HUGE, 10**30, -(10**30), float("nan"), "", "x", [], {})
VALUES += ("learned", [3, 2], [[8], [8]], [0], [HUGE], {"z1": 2.0}, {"$ref": 0}, {"$ref": 99})
VALUES += ({"$torch": "torch.nn.ReLU"}, {"$torch": "torch.nn.LSTM"}, {"$torch": "os.mkdir"})
VALUES += ({"$torch": "torch.optim.SGD"}, {"$class": "pyro_vae.training.trainer.Trainer"})


def redescribed(rng, data):
    def change(description):
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            places = list(branches(description))
            if not places:
                return
            container, key = rng.choice(places)
            kind = rng.randrange(4)
            if kind == 0:
                del container[key]
            elif kind == 1 and isinstance(container, dict):
                container[rng.choice(["latents", "hidden", "x", "$ref", "$class"])] = container[
                    key
                ]
            elif kind == 2:
                container[key] = json.loads(json.dumps(rng.choice(places)[0]))
            else:
                container[key] = rng.choice(VALUES)

    return described(change)


TENSORS = (
    lambda: torch.zeros(3),
    lambda: torch.zeros(0),
    lambda: torch.zeros(1).expand(HUGE),
    lambda: torch.zeros(8, 8, dtype=torch.complex64),
    lambda: torch.full((8,), float("nan")),
    lambda: torch.zeros(8, dtype=torch.int64),
    lambda: torch.zeros(8, dtype=torch.bool),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.zeros(8, device="meta"),
    lambda: None,
    lambda: "text",
    lambda: [],
    lambda: {"a": 1},
    lambda: 5,
)


def retensored(rng, data):
    value = content()
    container, key = rng.choice(list(branches(value)))
    kind = rng.randrange(3)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice(["x", 3, "modules"])] = rng.choice(TENSORS)()
    else:
        container[key] = rng.choice(TENSORS)()
    return seal(archive(value))


def with_code(rng, data):
    value = content()
    container, key = rng.choice(list(branches(value)))
    call = rng.choice([os.mkdir, os.system, exec, eval, __import__])
    container[key] = Touch("made" if call is os.mkdir else "mkdir made", call)
    pickled = pickle.dumps(value, protocol=2)
    return rng.choice([archive(value), seal(archive(value)), pickled, seal(pickled)])


def records(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archived:
        return [(name, archived.read(name)) for name in archived.namelist()]


def packed(entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archived:
        for entry in entries:
            archived.writestr(*entry)
    return seal(buffer.getvalue())


def repacked(rng, data):
    """Written by another program; with a record twice, or without one, or compressed."""
    entries = records(data)
    for _ in range(rng.randrange(3)):
        rng.choice([entries.remove, entries.append])(rng.choice(entries))
    with warnings.catch_warnings(action="ignore"):  # of names that are there twice
        return packed(entries, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))


def resized(rng, data):
    """One record is shorter or longer than its tensor."""
    entries = records(data)
    at = rng.randrange(len(entries))
    name, record = entries[at]
    other = rng.choice([b"", record[: len(record) // 2], record * 2, flipped(rng, record + b"0")])
    entries[at] = name, other
    return packed(entries)


MUTATIONS = (
    flipped,
    truncated,
    lengthened,
    sealed(flipped),
    sealed(truncated),
    sealed(lengthened),
    redescribed,
    redescribed,
    retensored,
    with_code,
    repacked,
    resized,
)


def mutate_and_load(number, folder):
    """Load so many mutated files; returns how many of each kind were refused."""
    refused = dict.fromkeys(range(len(MUTATIONS)), 0)
    for seed in range(number):
        rng = random.Random(seed)
        kind = seed % len(MUTATIONS)
        found = loaded(folder / "file.pt", MUTATIONS[kind](rng, whole()))
        if isinstance(found, str):
            refused[kind] += 1
        elif isinstance(found, Trainer):
            go_on(found)
        assert sorted(p.name for p in folder.iterdir()) == ["file.pt"], seed
    return refused


def go_on(t):
    """A file that loads is one to work with, or its trainer says what is wrong."""
    with contextlib.suppress(ValueError, TypeError, FloatingPointError), guarded():
        t.fit(X, epochs=1, batch_size=10, progress=False)


def check_mutations(number, folder, monkeypatch):
    monkeypatch.chdir(folder)
    refused = mutate_and_load(number, folder)
    each = number // len(MUTATIONS)
    names = [getattr(mutation, "__name__", "") for mutation in MUTATIONS]
    for kind, name in enumerate(names):
        if name in ("flipped", "truncated", "lengthened", "with_code"):
            assert refused[kind] >= each, name
    assert refused[names.index("redescribed")] > 0


def test_mutated_files(tmp_path, monkeypatch):
    check_mutations(120, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_thousand_mutated_files(tmp_path, monkeypatch):
    check_mutations(1200, tmp_path, monkeypatch)


def test_what_was_not_changed_loads_and_goes_on(tmp_path):
    found = loaded(tmp_path / "file.pt", described(lambda d: None))
    assert len(found.fit(X, epochs=1, progress=False).history) == 3
