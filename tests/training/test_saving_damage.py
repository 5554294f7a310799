"""Files that were damaged, forged or made by an older version: the library's errors, no others."""

import contextlib
import functools
import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import warnings
import zipfile

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, guides, likelihoods, load, models, priors, save
from pyro_vae.ground.recorded import Recorded
from pyro_vae.models import VAE, VQVAE
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


# Versions


def test_files_of_version_1_without_a_checksum_load(tmp_path):
    old = content()
    old["version"] = 1
    (tmp_path / "old.pt").write_bytes(archive(old))
    (tmp_path / "new.pt").write_bytes(whole())
    first, second = load(tmp_path / "old.pt"), load(tmp_path / "new.pt")
    for one, other in zip(first.modules(), second.modules(), strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
    assert (
        first.fit(X, epochs=1).history[-1]["elbo"] == second.fit(X, epochs=1).history[-1]["elbo"]
    )


def test_a_new_file_without_its_checksum_is_refused(tmp_path):
    message = loaded(tmp_path / "file.pt", archive(content()))
    assert "its checksum is missing" in message and "save(trainer, path)" in message


@pytest.mark.parametrize("version", ["2", 2.0, None, True, 0, -1, [2], 10**30, torch.tensor(2)])
def test_a_version_that_is_none(tmp_path, version):
    value = content()
    value["version"] = version
    message = loaded(tmp_path / "file.pt", seal(archive(value)))
    newer = isinstance(version, int) and version > 3
    assert ("newer pyro_vae" if newer else "format version is") in message
    del value["version"]
    assert "format version is None" in loaded(tmp_path / "file.pt", seal(archive(value)))


# Sizes


HUGE = 10**12
SIZES = {
    "latents": lambda d: d["parts"]["model"]["arguments"].update(latents=[HUGE, 2]),
    "overflowing": lambda d: d["parts"]["model"]["arguments"].update(latents=[2**62, 2**62]),
    "hidden": lambda d: d["parts"]["model"]["arguments"].update(hidden=[HUGE]),
    "two widths": lambda d: d["parts"]["model"]["arguments"].update(hidden=[30_000, 30_000]),
    "many layers": lambda d: d["parts"]["model"]["arguments"].update(hidden=[1] * 100_000),
    "event_shape": lambda d: d["parts"]["model"]["arguments"].update(event_shape=[HUGE]),
    "condition": lambda d: d["parts"]["model"]["arguments"].update(condition=10**6),
    "guide": lambda d: d["parts"]["guide"]["arguments"].update(hidden=[HUGE]),
}


@pytest.mark.parametrize("name", SIZES)
def test_huge_sizes_are_refused_before_anything_is_built(tmp_path, name, monkeypatch):
    largest = []
    original = nn.Parameter.__new__

    def made(cls, data=None, requires_grad=True):
        if data is not None and data.device.type != "meta":
            largest.append(data.numel())
        return original(cls, data, requires_grad)

    monkeypatch.setattr(nn.Parameter, "__new__", made)
    message = loaded(tmp_path / "file.pt", described(SIZES[name]))
    assert max(largest, default=0) <= 10**6
    if name != "overflowing":
        assert "ask for more than" in message, message


@pytest.mark.parametrize("given", ["model", "optimizer"])
def test_huge_sizes_beside_a_pair_of_the_users_own(tmp_path, given):
    (tmp_path / "file.pt").write_bytes(described(SIZES["guide"]))
    own = trained().model if given == "model" else torch.optim.SGD
    with guarded(), pytest.raises(ValueError, match=r"file.pt: .*ask for more than"):
        load(tmp_path / "file.pt", **{given: own})


WIDE = {
    "$class": "pyro_vae.networks.dense.MLP",
    "$id": 99,
    "arguments": {"in_shape": [10_000], "hidden": [10_000], "out_shape": [10_000]},
}


@pytest.mark.parametrize("where", ["elbo", "history"])
def test_huge_sizes_in_the_section_of_the_trainer(tmp_path, where):
    def change(description):
        if where == "elbo":
            description["trainer"]["arguments"]["elbo"] = WIDE
        else:
            description["trainer"]["history"].append(WIDE)

    assert "ask for more than" in loaded(tmp_path / "file.pt", described(change))


def shared():
    value = []
    for _ in range(60):
        value = [value, value]
    return value


def endless():
    value = {}
    value["again"] = [value]
    return value


def deep(levels=3000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


NESTED = {
    "shared": (shared, "containers claim more than it holds"),
    "endless": (endless, "nested more than 100 deep"),
    "deep": (deep, "nested more than 100 deep"),
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("where", ["run", "moments", "top"])
def test_containers_without_end(tmp_path, name, where):
    make, expected = NESTED[name]
    value = content()
    if where == "top":
        value["more"] = make()
    else:
        value["trainer"][where] = make()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        data = seal(archive(value))
    finally:
        sys.setrecursionlimit(limit)
    assert expected in loaded(tmp_path / "file.pt", data)


@pytest.mark.parametrize("levels", [400, 3000])
def test_a_description_without_end(tmp_path, levels):
    value = content()
    plain = json.loads(value["json"])
    plain["trainer"]["history"] = "here"
    value["json"] = json.dumps(plain).replace('"here"', "[" * levels + "]" * levels)
    assert "damaged or changed" in loaded(tmp_path / "file.pt", seal(archive(value)))


def test_endless_transforms_are_refused(tmp_path):
    t = trained(functools.partial(guides.Flow, steps=2))
    t.save(tmp_path / "file.pt")
    value = torch.load(tmp_path / "file.pt", weights_only=True)
    description = json.loads(value["json"])
    description["parts"]["guide"]["arguments"]["steps"] = HUGE
    value["json"] = json.dumps(description)
    assert "ask for more than" in loaded(tmp_path / "file.pt", seal(archive(value)))


@pytest.mark.parametrize("part", ["modules", "moments", "random"])
def test_tensors_that_claim_more_than_the_file_holds(tmp_path, part):
    value = content()
    wide = torch.zeros(1).expand(HUGE)
    if part == "modules":
        value["modules"]["model"]["decoder.layers.0.bias"] = wide
    elif part == "moments":
        value["trainer"]["moments"][0]["exp_avg"] = wide
    else:
        value["trainer"]["random"]["cpu"] = wide
    assert "claim more values" in loaded(tmp_path / "file.pt", seal(archive(value)))


@pytest.mark.parametrize("shape", [(), (9,), (3, 3, 3)])
def test_moments_of_another_shape(tmp_path, shape):
    value = content()
    value["trainer"]["moments"][0]["exp_avg"] = torch.zeros(shape)
    found = loaded(tmp_path / "file.pt", seal(archive(value)))
    assert "its moments cannot be" in found


IMAGE = (1, 8, 8)


def flat(**options):
    options = {"likelihood": likelihoods.Gaussian("learned"), "hidden": (4,), **options}
    return VAE((6,), 2, **options)


def quantised():
    return VQVAE(IMAGE, codes=4, code_dim=2, likelihood=likelihoods.Bernoulli())


PARTS = {
    "images": lambda: VAE(IMAGE, (3, 2), likelihood=likelihoods.Bernoulli(), norm=nn.BatchNorm2d),
    "codes": quantised,
    "pixels": lambda: VAE(
        IMAGE, 2, likelihood=likelihoods.Bernoulli(), decoder=models.PixelDecoder(IMAGE, 2)
    ),
    "condition": lambda: flat(condition=3, skip=True),
    "flow prior": lambda: flat(top_down={"z1": priors.FlowPrior(2)}),
    "mixture": lambda: flat(top_down={"z1": priors.MixturePrior(2, components=3)}),
    "NearestCode": lambda: guides.NearestCode(quantised()),
    "PerDatum": lambda: guides.PerDatum(flat(), X),
    "Ladder": lambda: guides.Ladder(flat()),
    "FullCovariance": lambda: guides.FullCovariance(flat()),
    "Flow": lambda: guides.Flow(flat()),
    "SemiAmortized": lambda: guides.SemiAmortized(guides.BottomUp(flat())),
}


def whole_numbers(value):
    """The places of all whole numbers among constructor arguments."""
    for container, key in branches(value):
        if isinstance(container[key], int) and key != "$id":
            yield container, key


@pytest.mark.parametrize("name", PARTS)
def test_no_number_in_any_description_exhausts_memory(tmp_path, name):
    """Each whole number in turn is huge: no argument of any part goes into memory or time."""
    torch.manual_seed(0)
    save(PARTS[name](), tmp_path / "old.pt")
    value = torch.load(tmp_path / "old.pt", weights_only=True)
    text, size = value["json"], os.path.getsize(tmp_path / "old.pt")
    for at in range(sum(1 for _ in whole_numbers(json.loads(text)["parts"]))):
        for number in (10**8, HUGE):
            description = json.loads(text)
            container, key = list(whole_numbers(description["parts"]))[at]
            container[key] = number
            value["json"] = json.dumps(description)
            found = loaded(tmp_path / "file.pt", seal(archive(value)))
            if not isinstance(found, str):
                held = sum(v.numel() for m in (found,) for v in m.buffers())
                assert held < size, (key, number)


class Particular(Recorded, nn.Module):
    """A network that looks at its values while it is made."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 6)
        self.norm = float(self.layer.weight.detach().norm())

    def forward(self, z):
        return self.layer(z)


def test_a_network_that_looks_at_its_values_loads(tmp_path):
    save(VAE((6,), 2, likelihood=likelihoods.Gaussian(), decoder=Particular()), tmp_path / "v.pt")
    assert load(tmp_path / "v.pt").decoder.norm > 0


# Mutations


class Touch:
    """Pickled, a call that creates a folder when it is unpickled."""

    def __init__(self, path, call=os.mkdir):
        self.path, self.call = str(path), call

    def __reduce__(self):
        return self.call, (self.path,)


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


def branches(value):
    """Every container in JSON data, with the key of each of its items."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from branches(value[key])


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
