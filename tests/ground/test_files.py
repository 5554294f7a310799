import errno
import io
import os
import stat
import subprocess
import sys

import pytest

from pyro_vae.ground.files import write_atomically


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


class FullDisk(io.FileIO):
    """A file that takes so many bytes, with short writes at the end, as a full disk does."""

    room = 0

    def write(self, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(bytes(data)[: self.room])
        self.room -= written
        return written


NEW = bytes(range(256)) * 200


# The buffer of a file object is 8192 bytes: below, at and above it, one byte short, and whole
@pytest.mark.parametrize("room", [*range(12), 4095, 8191, 8192, 8193, 20000, 51199, 51200])
def test_a_disk_that_is_full_at_any_byte_leaves_the_old_file(tmp_path, monkeypatch, room):
    path = tmp_path / "file"
    path.write_text("old")

    def open_on_a_full_disk(handle, mode):
        raw = FullDisk(handle, mode)
        raw.room = room
        return io.BufferedWriter(raw)

    monkeypatch.setattr(os, "fdopen", open_on_a_full_disk)
    if room == len(NEW):
        write_atomically(path, NEW)
    else:
        with pytest.raises(OSError, match=f"cannot write {path}: No space left on device$"):
            write_atomically(path, NEW)
    assert path.read_bytes() == (NEW if room == len(NEW) else b"old")
    assert list(tmp_path.iterdir()) == [path]


LIMITED = """
import importlib.util, resource, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("files", sys.argv[2])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
for limit in (1, 10, 4096, 8192, 8200, 51199):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        files.write_atomically(path, bytes(51200))
    except OSError as error:
        assert f"cannot write {path}: " in str(error)
    else:
        raise AssertionError(limit)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path], limit
resource.setrlimit(resource.RLIMIT_FSIZE, (51200, resource.RLIM_INFINITY))
files.write_atomically(path, bytes(51200))
assert path.read_bytes() == bytes(51200)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such limit")
def test_a_limit_of_the_system_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    module = sys.modules[write_atomically.__module__].__file__
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), module],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_folder_that_takes_no_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    # The super-user may write everywhere, so that the mode of a folder would not do
    def refused(name, flags, mode=0o777, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(PermissionError, match=f"cannot write {path}: Permission denied$"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="may write anywhere")
def test_a_read_only_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=f"cannot write {path}: Permission denied$"):
            write_atomically(path, "new")
    finally:
        tmp_path.chmod(0o700)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_failed_first_is_told(tmp_path, monkeypatch):
    def fail(code):
        def failing(*args):
            raise OSError(code, os.strerror(code))

        return failing

    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", fail(errno.EROFS))
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(tmp_path / "file", "new")


def test_a_name_as_long_as_may_be(tmp_path):
    path = tmp_path / ("n" * 255)
    write_atomically(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
