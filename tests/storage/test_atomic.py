"""A disk that is full is said by name, whichever library writes; what was there before stays."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from dinomill.commands.failures import explain
from dinomill.errors import StorageError
from dinomill.storage.atomic import atomic_file, fresh_folder, refusal, storage_errors, write_text

ROWS = np.random.default_rng(0).random(300_000)


def _array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, ROWS)


@pytest.mark.parametrize(
    "write",
    [
        _array,
        lambda path: pq.write_table(pa.table({"a": ROWS}), path),
        lambda path: torch.save({"a": torch.from_numpy(ROWS)}, path),
        lambda path: path.write_text("a" * 300_000, encoding="utf-8"),
    ],
    ids=["numpy", "parquet", "torch", "text"],
)
def test_a_full_disk_is_said_whoever_writes(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """NumPy and torch do not pass on the system's number: their users saw a traceback."""
    target = tmp_path / "result"
    target.write_text("before", encoding="utf-8")
    # Where the temporary file will be lies the device that is always full.
    (tmp_path / f".result.{os.getpid()}.tmp").symlink_to("/dev/full")
    with (
        pytest.raises(StorageError, match=r"Cannot write .*result: No space left on device") as caught,
        atomic_file(target) as temporary,
    ):
        write(temporary)
    assert "free some space" in str(caught.value)
    assert target.read_text(encoding="utf-8") == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_limit_on_the_size_of_files_is_not_a_full_disk(tmp_path: Path) -> None:
    """NumPy and torch say only that they wrote too little; 21 GB were free on the disk that was called full."""
    code = f"""
import resource, signal
from pathlib import Path
import numpy as np
from dinomill.errors import StorageError
from dinomill.storage.atomic import atomic_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    with atomic_file(Path({str(tmp_path / "all.npy")!r})) as temporary, temporary.open("wb") as file:
        np.save(file, np.zeros(300_000))
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "all.npy: File too large" in done.stdout
    assert "ulimit -f unlimited" in done.stdout
    assert "free" not in done.stdout


def test_a_quota_is_named_where_the_writer_does_not_say_why(tmp_path: Path) -> None:
    for error, guessed in (
        (OSError("1000000 requested and 262128 written"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ):
        with pytest.raises(StorageError, match="No space left") as caught, storage_errors(tmp_path / "all.npy"):
            raise error
        assert ("a quota stands in the way" in str(caught.value)) == guessed


def test_what_other_writers_say_is_understood() -> None:
    rust = type("SafetensorError", (Exception,), {"__module__": "safetensors._safetensors_rust"})
    said = {
        rust("Error while serializing: I/O error: No space left on device (os error 28)"): errno.ENOSPC,
        rust("Error while serializing: I/O error: Permission denied (os error 13)"): errno.EACCES,
        rust("Error while deserializing header: header too large"): None,
        sqlite3.OperationalError("database or disk is full"): errno.ENOSPC,
        OSError("1000000 requested and 262128 written"): errno.ENOSPC,
        OSError(errno.EDQUOT, "Disk quota exceeded"): errno.EDQUOT,
        OSError(errno.ENOENT, "No such file or directory"): None,
        ValueError("1000000 requested"): None,
    }
    for error, number in said.items():
        assert refusal(error) == number
    with pytest.raises(ValueError, match="as it was"), storage_errors(Path("x")):
        raise ValueError("as it was")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_folder_that_is_copied_to_a_full_disk(tmp_path: Path) -> None:
    """`shutil` says it in a list of words, without the system's number."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "page.html").write_text("a page")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "page.html").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device"), storage_errors(tmp_path / "place"):
        shutil.copytree(tmp_path / "made", tmp_path / "place", dirs_exist_ok=True, copy_function=_copied)


def _copied(source: str, target: str) -> str:
    with open(target, "w") as file:  # noqa: PTH123 (as shutil does)
        file.write(Path(source).read_text())
    return target


def test_a_real_safetensors_file_on_a_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match="File too large"), atomic_file(tmp_path / "weights") as temporary:
            save_file({"a": torch.from_numpy(ROWS)}, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_refused_read_is_not_called_a_write() -> None:
    known = explain(PermissionError(errno.EACCES, "Permission denied", "/data/photos"))
    assert known is not None
    assert known.problem == "Cannot use /data/photos: Permission denied."
    full = explain(OSError(errno.ENOSPC, "No space left on device", "/data/x"))
    assert full is not None
    assert full.problem == "Cannot write /data/x: No space left on device."


def test_a_folder_where_a_file_belongs_and_the_reverse_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError) as refused:
        write_text(tmp_path / "folder", "text")
    assert "which is a folder" in str(refused.value) and "remove it" in str(refused.value)
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file" / "in" / "it.txt", tmp_path / "file" / "it.txt"):
        with pytest.raises(StorageError, match="which is a file"):
            write_text(path, "text")
    with pytest.raises(StorageError, match="which is a file"):
        fresh_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError), storage_errors(tmp_path / "other"):
        (tmp_path / "file" / "x").read_text()  # not what was to be written
