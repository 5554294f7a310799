"""Files that were damaged, forged or made by an older version: the library's errors, no others."""

import functools
import json
import os
import sys

import pytest
import torch
from damaged import HUGE, X, archive, branches, content, described, guarded, loaded, trained, whole
from torch import nn

from pyro_vae import guides, likelihoods, load, models, priors, save
from pyro_vae.ground.recorded import Recorded
from pyro_vae.models import VAE, VQVAE
from pyro_vae.storage.sealed import seal

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


@pytest.mark.parametrize("state", [[], [1], 3, "step"])
def test_moments_of_another_kind(tmp_path, state):
    value = content()
    value["trainer"]["moments"][0] = state
    assert "damaged or changed" in loaded(tmp_path / "file.pt", seal(archive(value)))


IMAGE = (1, 8, 8)


def flat(**options):
    options = {"likelihood": likelihoods.Gaussian("learned"), "hidden": (4,), **options}
    return VAE((6,), 2, **options)


def quantised():
    return VQVAE(IMAGE, codes=4, code_dim=2, likelihood=likelihoods.Bernoulli())


PARTS = {
    "images": lambda: VAE(IMAGE, (3, 2), likelihood=likelihoods.Bernoulli(), norm=nn.BatchNorm1d),
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
