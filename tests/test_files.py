import errno
import os
import stat

import pytest

from pyro_vae.files import write_atomically


@pytest.mark.parametrize(
    ("content", "expected"), [(b"\x00\xff", b"\x00\xff"), ("é\n", b"\xc3\xa9\n"), (b"", b"")]
)
def test_bytes_and_text(tmp_path, content, expected):
    path = tmp_path / "file"
    write_atomically(str(path), content)
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_file_is_replaced_and_keeps_its_mode(tmp_path):
    path = tmp_path / "file"
    path.write_text("a longer old text")
    path.chmod(0o640)
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_of_any_other_new_file(tmp_path):
    (tmp_path / "usual").touch()
    write_atomically(tmp_path / "file", "new")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "file")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("failing", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_failure_names_the_file_that_was_asked_for(tmp_path, monkeypatch, failing, code):
    def fail(*args):
        raise OSError(code, os.strerror(code), "/temporary")

    monkeypatch.setattr(os, failing, fail)
    message = f"cannot write {tmp_path / 'file'}: {os.strerror(code)}$"
    with pytest.raises(type(OSError(code, "")), match=message) as error:
        write_atomically(tmp_path / "file", "new")
    assert error.value.errno == code


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a/file: its folder does not exist: create .*a"):
        write_atomically(tmp_path / "a" / "file", "new")


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=f"cannot write {tmp_path / 'folder'}: "):
        write_atomically(tmp_path / "folder", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
