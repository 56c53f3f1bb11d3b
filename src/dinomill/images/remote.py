"""Shards on S3, read by range, with a cache on a local disk.

<cache>/<hash of the prefix and sizes>/images-00000.tar          as large as the shard, holes where nothing was read yet
<cache>/<hash of the prefix and sizes>/images-00000.tar.blocks   a byte a block of 64 KiB: 1 when it is there

Several processes of a machine may share the cache: a block is marked only after it was written, and every process would
write the same bytes. When the cache is full, further images are read from S3 each time they come.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dinomill.errors import InputError, StorageError
from dinomill.images.shards import Location
from dinomill.storage import s3
from dinomill.storage.atomic import storage_errors
from dinomill.storage.hashing import hash_json

_BLOCK = 64 * 2**10
_GONE = ("NoSuchKey", "404", "InvalidRange", "416")  # what a server says of an object that was there
_CONNECTIONS = 16  # images of a batch that are read at the same time: each waits for the network, not for a core


class RemoteShards:
    """Random access to shards under an ``s3://`` prefix; safe to share between threads, copied to processes.

    Args:
        prefix: Where they lie: ``s3://bucket/prefix``.
        names: Their names, in the order that locations count them.
        cache: Folder on a local disk.
        cache_bytes: How much of it may be used.

    Raises:
        InputError: When a shard is not there.
        StorageError: When the server does not answer or refuses.
    """

    def __init__(self, prefix: str, names: Sequence[str], *, cache: Path, cache_bytes: int) -> None:
        self.prefix, self.names, self.cache, self.cache_bytes = prefix.rstrip("/"), tuple(names), cache, cache_bytes
        found = {item.path: (item.size, item.etag) for item in s3.list_objects(self.prefix)}
        if missing := [name for name in self.names if name not in found]:
            raise InputError(
                f"{self.prefix} lacks {len(missing)} of the dataset's {len(self.names)} shards.",
                found=f"{len(found)} objects; missing: {', '.join(missing[:3])}",
                action="copy the dataset's `shards` folder there, or correct `loader.shards`",
            )
        sizes = [found[name] for name in self.names]
        folder = cache / hash_json([self.prefix, self.names, sizes])[:16]
        self._shards = [_Mirror(folder / name, size) for name, (size, _) in zip(self.names, sizes, strict=True)]
        self._pool = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="dinomill-s3")
        self._lock = threading.Lock()
        self._used: int | None = None

    def prepare(self, locations: Sequence[Location]) -> None:
        """Bring the blocks of several images into the cache, many at a time."""
        list(self._pool.map(self._ahead, locations))

    def read(self, location: Location) -> bytes | memoryview:
        """The bytes of one image.

        Raises:
            InputError: When the shard is gone or shorter than it was.
            StorageError: When the server does not answer or refuses.
        """
        mirror = self._shards[location.shard]
        if mirror.missing(location) and not self._fetch(location):
            return self._get(location.shard, location.offset, location.length)
        return mirror.view(location)

    def _ahead(self, location: Location) -> None:
        with contextlib.suppress(InputError):  # ``read`` says so, of that image alone
            self._fetch(location)

    def _fetch(self, location: Location) -> bool:
        """Read an image's missing blocks in one request; False when the cache is full."""
        mirror = self._shards[location.shard]
        blocks = mirror.missing(location)
        if not blocks:
            return True
        start = blocks[0] * _BLOCK
        length = min((blocks[-1] + 1) * _BLOCK, mirror.size) - start
        if not self._reserve(length):
            return False
        mirror.write(blocks, start, self._get(location.shard, start, length))
        return True

    def _get(self, shard: int, start: int, length: int) -> bytes:
        try:
            data = s3.read_object(self.prefix, self.names[shard], start=start, length=length)
        except StorageError as error:
            if any(code in (error.found or "") for code in _GONE):
                raise InputError(error.problem, found=error.found, action=error.action) from None
            raise
        if len(data) < length:
            raise InputError(
                f"{self.prefix}/{self.names[shard]} ends before an image that the manifest places in it.",
                found=f"{start + len(data):,} bytes",
                expected=f"at least {start + length:,}",
                action="copy the dataset's shards to S3 again",
            )
        return data

    def _reserve(self, length: int) -> bool:
        with self._lock:
            if self._used is None:
                self._used = sum(mirror.present() for mirror in self._shards)
            if self._used + length > self.cache_bytes:
                return False
            self._used += length
            return True

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.prefix, self.names, self.cache, self.cache_bytes)


def _rebuild(prefix: str, names: Sequence[str], cache: Path, cache_bytes: int) -> RemoteShards:
    return RemoteShards(prefix, names, cache=cache, cache_bytes=cache_bytes)


class _Mirror:
    """The local copy of one shard, with holes; its files are made when first needed."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._lock = threading.Lock()
        self._file = -1
        self._data = memoryview(b"")
        self._marks: mmap.mmap | None = None

    def missing(self, location: Location) -> list[int]:
        """Numbers of the blocks of an image that are not there."""
        end = location.offset + location.length
        if end > self.size:
            raise InputError(
                f"The shard {self.path.name} ends before an image that the manifest places in it.",
                found=f"{self.size:,} bytes",
                expected=f"at least {end:,}",
                action="copy the dataset's shards to S3 again",
            )
        marks = self._open()
        return [block for block in range(location.offset // _BLOCK, (end - 1) // _BLOCK + 1) if not marks[block]]

    def write(self, blocks: list[int], start: int, data: bytes) -> None:
        """Store a run of blocks, and mark them afterwards."""
        marks = self._open()
        with storage_errors(self.path):
            os.pwrite(self._file, data, start)
        for block in range(blocks[0], blocks[-1] + 1):
            marks[block] = 1

    def view(self, location: Location) -> memoryview:
        """The bytes of an image whose blocks are there."""
        self._open()
        return self._data[location.offset : location.offset + location.length]

    def present(self) -> int:
        """Bytes of the blocks that are there."""
        return self._open()[:].count(1) * _BLOCK

    def _open(self) -> mmap.mmap:
        if self._marks is None:
            with self._lock, storage_errors(self.path):
                if self._marks is None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                    os.ftruncate(self._file, self.size)
                    self._data = memoryview(mmap.mmap(self._file, self.size, access=mmap.ACCESS_READ))
                    self._marks = self._open_marks()
        return self._marks

    def _open_marks(self) -> mmap.mmap:
        blocks = -(-self.size // _BLOCK)
        file = os.open(self.path.with_name(f"{self.path.name}.blocks"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(file, blocks)
            return mmap.mmap(file, blocks)
        finally:
            os.close(file)
