"""Arrays that are broken, strange or made to do harm."""

import functools
import io
import random
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from test_data_damage import RNG

from pyro_vae.data import load

TABLE = RNG.normal(size=(12, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(TABLE),
        TABLE.astype(">f4"),
        TABLE.astype(">f8"),
        TABLE.astype(np.float16),
        TABLE.astype(np.longdouble),
        TABLE > 0,
        (100 * TABLE).astype(np.int8),
        (100 * TABLE).astype(">i4"),
        (100 * TABLE + 900).astype(np.uint16),
        TABLE[::-1, ::-1],
    ],
    ids=lambda a: f"{a.dtype}",
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_arrays_of_any_order_and_type_are_read(tmp_path, array, name):
    if name == "a.npy":
        np.save(tmp_path / name, array)
    else:
        np.savez(tmp_path / name, x=array)
    d = load(tmp_path / name)
    rows = torch.cat([d.train.x, d.test.x])
    assert rows.dtype == torch.float32
    assert sorted(rows.tolist()) == sorted(array.astype(np.float32).tolist())


def save_npy(path, header, payload=b""):
    text = repr(header).encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + payload)


def header(shape, descr="<f4"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


HUGE = 10**15
BROKEN = {
    "objects": lambda p: np.save(p, np.array([{1: 2}], dtype=object), allow_pickle=True),
    "huge": lambda p: save_npy(p, header((HUGE, 8)), bytes(64)),
    "huge axis": lambda p: save_npy(p, header((2**62, 2**62)), bytes(64)),
    "negative": lambda p: save_npy(p, header((-1, 4)), bytes(64)),
    "one row short": lambda p: save_npy(p, header((5, 4)), bytes(64)),
    "no tuple": lambda p: save_npy(p, header("4")),
    "code": lambda p: save_npy(p, header((1, 1), "__import__('os').mkdir('made')")),
    "header cut": lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{"),
    "deep header": lambda p: save_npy(p, functools.reduce(lambda t, _: (t,), range(50), 1)),
    "version 9": lambda p: p.write_bytes(b"\x93NUMPY\x09\x00\x00\x00"),
    "magic alone": lambda p: p.write_bytes(b"\x93NUMPY"),
    "zip alone": lambda p: p.write_bytes(b"PK\x05\x06" + bytes(18)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_array_is_refused_by_name(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BROKEN[name](tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy: expected ") as error:
        load(tmp_path / "a.npy")
    assert "Unable to allocate" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize(
    "array", [TABLE.astype(complex), np.array([["a"]]), np.zeros((3, 2), "M8[s]")]
)
def test_arrays_of_no_real_numbers(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(TypeError, match=r"^x: expected real numbers, got ndarray of "):
        load(tmp_path / "a.npy")


def test_a_deflated_bomb_is_refused_unread(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((4000, 10)))
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    assert load(tmp_path / "a.npz").event_shape == (10,)
    content = bytearray(buffer.getvalue())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    (tmp_path / "a.npz").write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"a.npz: expected .*x.npy claims 4294967294 bytes"):
        load(tmp_path / "a.npz")


def test_something_else_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.txt", "1 2 3")
    with pytest.raises(ValueError, match=r"a.npz: expected numeric arrays"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "b.npz"])
def test_mutated_arrays_are_read_or_refused(tmp_path, name):
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, TABLE)
    else:
        (np.savez if name == "a.npz" else np.savez_compressed)(path, x=TABLE)
    whole = path.read_bytes()
    refused = 0
    for seed in range(150):
        rng = random.Random(seed)
        content = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            content[rng.randrange(min(200, len(content)))] = rng.randrange(256)
        path.write_bytes(content[: rng.randrange(len(content)) if seed % 3 == 0 else None])
        try:
            with warnings.catch_warnings(action="ignore"):  # NumPy's, of old headers
                d = load(path)
        except (ValueError, TypeError) as error:
            assert str(error).startswith((f"{path}: expected", "x: expected", "source: expected"))
            refused += 1
        else:
            assert d.train.x.isfinite().all()
    assert refused >= 40
