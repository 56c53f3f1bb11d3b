"""Packages of several parts against a real SeaweedFS server: checksums, conditions, kills between two parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dinomill.errors import InputError, StorageError
from dinomill.handles import PackageHandle
from dinomill.serving.model_store import MANIFEST, Manifest, fetch, publish
from dinomill.storage import s3, s3_parts
from dinomill.storage.hashing import hash_bytes, hash_file
from tests.serving.test_model_store import _contents, _environment, port, store

__all__ = ["port", "store"]  # fixtures

_PARTS = 3
_BYTES = 2 * s3_parts.PART + 12_345


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What is published does not look into the archive: any bytes do."""
    return _package(tmp_path / "package")


def _package(folder: Path, note: str = "how to serve it\n") -> Path:
    (folder / "model_store").mkdir(parents=True)
    archive = folder / "model_store" / "mill.mar"
    archive.write_bytes(bytes(range(256)) * (_BYTES // 256) + bytes(_BYTES % 256))
    (folder / "README.md").write_text(note)
    PackageHandle(
        folder=Path("data/package"),
        made_of="",
        archive=Path("data/package/model_store/mill.mar"),
        archive_sha256=hash_file(archive),
        model="mill",
        version=3,
        embed_dim=192,
        smoke={},
    ).save(folder)
    return folder


def _place(store: str, package: Path) -> tuple[str, str]:
    """Bucket and key of the archive."""
    sha256 = hash_file(package / "model_store" / "mill.mar")
    return s3.split_uri(f"{store}/mill/3/{sha256[:16]}/model_store/mill.mar")


def _unfinished(store: str) -> list[Any]:
    bucket, prefix = s3.split_uri(store)
    found: list[Any] = s3.client().list_multipart_uploads(Bucket=bucket, Prefix=f"{prefix}/").get("Uploads", [])
    return found


def test_it_goes_in_parts_each_with_a_checksum_and_comes_back_whole(store: str, package: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    def note(request: Any, **_: Any) -> None:
        if "partNumber=" in request.url:
            value = request.headers.get("x-amz-checksum-crc32")
            seen.append((request.url.split("partNumber=")[1].split("&")[0], value and value.decode()))

    s3.client().meta.events.register("before-send.s3.UploadPart", note)
    done = publish(package, store)
    assert sorted(number for number, _ in seen) == ["1", "2", "3"]
    assert all(checksum for _, checksum in seen)
    bucket, key = _place(store, package)
    assert s3.client().head_object(Bucket=bucket, Key=key)["ETag"].strip('"').endswith(f"-{_PARTS}")
    assert _contents(fetch(done.uri, sha256=done.sha256, cache=tmp_path / "cache")) == _contents(package)
    assert _unfinished(store) == []


def test_a_part_that_is_damaged_on_its_way_is_not_taken(store: str, package: Path, tmp_path: Path) -> None:
    def damage(request: Any, **_: Any) -> None:
        if "partNumber=2" in request.url:
            request.body = b"\x01" + request.body.read()[1:]

    s3.client().meta.events.register("before-send.s3.UploadPart", damage)
    with pytest.raises(StorageError, match=r"Cannot write(.|\n)*BadDigest"):
        publish(package, store)
    s3.client().meta.events.unregister("before-send.s3.UploadPart", damage)
    with pytest.raises(InputError, match="holds no package"):
        fetch(f"{store}/mill/3", cache=tmp_path / "cache")
    assert _unfinished(store) == []  # what fails and lives clears up after itself
    assert publish(package, store).fresh


_KILLED = """
import os, signal, sys
from pathlib import Path
from dinomill.serving import model_store
from dinomill.storage import s3, s3_parts
s3_parts._AT_ONCE = 1
def stop(request, **_):
    if "partNumber=3" in request.url:
        os.kill(os.getpid(), signal.SIGKILL)
s3.client().meta.events.register("before-send.s3.UploadPart", stop)
model_store.publish(Path(sys.argv[1]), sys.argv[2])
"""


def test_killed_between_two_parts_nothing_counts_and_what_is_left_is_cleared_away(
    store: str, port: int, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", _KILLED, str(package), store]
    assert subprocess.run(command, env=os.environ | _environment(port), check=False).returncode == -signal.SIGKILL
    bucket, key = _place(store, package)
    assert [one["Key"] for one in _unfinished(store)] == [key]
    assert s3.object_size(f"s3://{bucket}/{key}") is None
    assert s3.object_size(f"{store}/mill/3/{MANIFEST}") is None
    with pytest.raises(InputError, match="holds no package"):
        fetch(f"{store}/mill/3", cache=tmp_path / "cache")
    assert publish(package, store).fresh
    assert len(_unfinished(store)) == 1  # of less than a day: somebody might be at it
    abort = s3_parts.abort_unfinished
    monkeypatch.setattr(s3_parts, "abort_unfinished", lambda uri: abort(uri, hours=0))
    assert not publish(package, store).fresh
    assert _unfinished(store) == []
    assert _contents(fetch(f"{store}/mill/3", cache=tmp_path / "cache")) == _contents(package)


def test_a_file_of_parts_is_not_written_over(store: str, tmp_path: Path) -> None:
    """One after another. Of those who end at the same moment SeaweedFS lets several: what is left is one of theirs."""
    uri = f"{store}/large"
    others = [tmp_path / f"other{number}" for number in range(4)]
    for number, other in enumerate(others):
        other.write_bytes(bytes([number]) * _BYTES)
    with ThreadPoolExecutor(len(others)) as pool:
        wrote = list(pool.map(lambda path: s3_parts.upload_new(path, uri), others))
    assert any(wrote)
    there = hash_bytes(s3.read_object(uri))
    assert there in {hash_file(other) for other, done in zip(others, wrote, strict=True) if done}
    assert not any(s3_parts.upload_new(other, uri) for other in others)
    assert hash_bytes(s3.read_object(uri)) == there
    assert _unfinished(store) == []


def test_an_object_of_another_size_under_a_files_name_is_replaced(store: str, package: Path, tmp_path: Path) -> None:
    bucket, key = _place(store, package)
    s3.write_object(f"s3://{bucket}/{key}", b"cut off")
    done = publish(package, store)
    manifest = Manifest.parse(s3.read_object(f"{done.uri}/{MANIFEST}"), "")
    assert max(one.bytes for one in manifest.files) == _BYTES
    assert _contents(fetch(done.uri, cache=tmp_path / "cache")) == _contents(package)
