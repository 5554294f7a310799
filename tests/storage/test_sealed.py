import hashlib
import io
import struct
import zipfile

import pytest
import torch

from pyro_vae.storage.sealed import read, seal

CONTENT = {"x": torch.arange(6.0), "text": "plain", "list": [1, 2.5, None]}


def archive(content=CONTENT):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def written(folder, data):
    (folder / "file.pt").write_bytes(data)
    return folder / "file.pt"


def repacked(data, compression=zipfile.ZIP_STORED, **replaced):
    """The same entries, written by another program."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            name = entry.filename.rpartition("/")[2]
            new.writestr(entry.filename, replaced.get(name, old.read(entry)), compression)
    return buffer.getvalue()


def test_what_was_sealed_comes_back(tmp_path):
    content, checked = read(written(tmp_path, seal(archive())), "cpu")
    assert checked and torch.equal(content.pop("x"), CONTENT["x"])
    assert content == {"text": "plain", "list": [1, 2.5, None]}


def test_the_seal_is_the_checksum_of_the_archive_and_leaves_it_one(tmp_path):
    data = seal(archive())
    path = written(tmp_path, data)
    with zipfile.ZipFile(path) as whole:
        assert whole.comment == b"sha256 " + hashlib.sha256(archive()).hexdigest().encode()
        assert whole.testzip() is None
    assert torch.equal(torch.load(path, weights_only=True)["x"], CONTENT["x"])


def test_an_archive_without_a_seal_is_read_and_says_so(tmp_path):
    content, checked = read(written(tmp_path, archive()), "cpu")
    assert not checked and torch.equal(content["x"], CONTENT["x"])


def test_every_flipped_bit_is_found(tmp_path):
    data = seal(archive())
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        path = written(tmp_path, bytes(changed))
        with pytest.raises(ValueError, match=r"file.pt: not a checkpoint .*damaged"):
            read(path, "cpu")


@pytest.mark.parametrize("with_seal", [True, False])
def test_every_truncation_is_found(tmp_path, with_seal):
    data = seal(archive()) if with_seal else archive()
    for kept in range(0, len(data), 11):
        with pytest.raises(ValueError, match=r"file.pt: not a checkpoint .*damaged"):
            read(written(tmp_path, data[:kept]), "cpu")


def test_without_a_seal_changed_tensors_are_found_by_their_crc(tmp_path):
    data = bytearray(archive())
    data[data.index(CONTENT["x"].numpy().tobytes()) + 9] ^= 4
    with pytest.raises(ValueError, match=r"damaged one"):
        read(written(tmp_path, bytes(data)), "cpu")


def test_a_wrong_checksum_is_told_as_such(tmp_path):
    data = bytearray(seal(archive()))
    data[100] ^= 1
    with pytest.raises(ValueError, match=r"its checksum is not that of its content: take another"):
        read(written(tmp_path, bytes(data)), "cpu")


def refused(folder, data, monkeypatch, reason):
    def fail(*args, **kwargs):
        pytest.fail("it was read")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(ValueError, match=r"file.pt: not a checkpoint") as error:
        read(written(folder, data), "cpu")
    assert reason in str(error.value.__cause__)


def test_compressed_entries_are_never_unpacked(tmp_path, monkeypatch):
    bomb = repacked(archive(), zipfile.ZIP_DEFLATED, **{"0": bytes(10**8)})
    assert len(bomb) < 10**6
    refused(tmp_path, seal(bomb), monkeypatch, "without compression")


def test_entries_that_claim_to_be_larger_than_the_file(tmp_path, monkeypatch):
    data = bytearray(repacked(archive()))
    at = data.rindex(b"PK\x01\x02")  # the last entry of the directory
    data[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)
    refused(tmp_path, seal(bytes(data)), monkeypatch, "its entries claim 2147")


def test_one_stretch_of_the_file_for_many_entries(tmp_path, monkeypatch):
    data = bytearray(repacked(archive({"x": torch.zeros(1000), "y": torch.zeros(1000)})))
    starts = [i for i in range(len(data)) if data.startswith(b"PK\x01\x02", i)]
    for at in starts:
        data[at + 20 : at + 28] = struct.pack("<II", 8000, 8000)
    refused(tmp_path, seal(bytes(data)), monkeypatch, "its entries claim")


def test_a_second_directory_behind_the_first(tmp_path, monkeypatch):
    # one reader would take the first, another one the second
    data = archive()[:-2] + struct.pack("<H", 22) + b"PK\x05\x06" + bytes(18)
    refused(tmp_path, data + b"more", monkeypatch, "no archive")


def test_a_record_that_is_smaller_than_its_tensor(tmp_path):
    short = repacked(archive(), **{"0": bytes(8)})
    with pytest.raises(ValueError, match=r"file.pt: not a checkpoint"):
        read(written(tmp_path, seal(short)), "cpu")
