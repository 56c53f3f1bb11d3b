from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.file_bytes import MOST_BYTES, read_file
from dinomill.images.item import Item
from dinomill.images.listing import list_items, read_item


def _sparse(path: Path, head: bytes, size: int = 200 * 2**30) -> Path:
    path.write_bytes(head)
    os.truncate(path, size)
    return path


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a") == b"12345"
    assert read_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(DecodeError, match="at most") as caught:
        read_file(tmp_path / "a", 4)
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_sparse_file_is_not_read_and_is_named_where_it_is_known(tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        read_file(_sparse(tmp_path / "x.mp4", b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp41"))
    assert caught.value.countable == "unsupported:video"
    with pytest.raises(DecodeError) as caught:
        read_file(_sparse(tmp_path / "x.bin", b""))
    assert caught.value.reason is Reason.TOO_LARGE
    assert "204,800 MB; at most 4,096 MB" in caught.value.detail


def test_a_pool_with_such_a_file_lists_it_and_reads_the_others(tmp_path: Path) -> None:
    _sparse(tmp_path / "a.jpg", b"\xff\xd8\xff")
    (tmp_path / "b.jpg").write_bytes(b"small")
    first, second = list_items(str(tmp_path))
    with pytest.raises(DecodeError):
        read_item(str(tmp_path), first)
    assert read_item(str(tmp_path), second) == b"small"
    (tmp_path / "x.tar").write_bytes(b"")
    for source in (str(tmp_path / "x.tar"), "s3://bucket/x"):
        with pytest.raises(DecodeError, match="at most"):
            read_item(source, Item("a.jpg", MOST_BYTES + 1, "", 0))


def test_a_file_for_which_there_is_no_memory_is_named(tmp_path: Path) -> None:
    path = _sparse(tmp_path / "x.jpg", b"\xff\xd8\xff", 3 * 2**30)
    code = (
        f"import resource; from pathlib import Path; from dinomill.images.file_bytes import read_file\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({2**31}, resource.RLIM_INFINITY))\n"
        f"try: read_file(Path({str(path)!r}))\nexcept Exception as error: print(error.reason, error.detail)"
    )
    assert resource.RLIMIT_AS is not None
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("too_large 3,072 MB; there is not enough memory"), done
