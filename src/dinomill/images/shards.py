"""Tar shards: WebDataset-compatible, uncompressed, originals' encoding, random access by (shard, offset, length).

<folder>/<prefix>-00000.tar     members 000000000.png, 000000001.jpg, … in the order they were added
<folder>/<prefix>-00001.tar
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, Self

from dinomill.errors import InputError
from dinomill.storage.atomic import storage_errors

if TYPE_CHECKING:
    from dinomill.handles import DatasetHandle
    from dinomill.images.loader_config import LoaderConfig

_BLOCK = 512
_OPEN = 256  # shards that stay open


class Location(NamedTuple):
    """Where an image's bytes lie. ``shard`` counts from 0; ``offset`` and ``length`` are bytes of the payload."""

    shard: int
    offset: int
    length: int


class ImageSource(Protocol):
    """What the loader reads from: local shards, or a store that answers ranged reads."""

    def prepare(self, locations: Sequence[Location]) -> None:
        """Say which images are read next: a store far away fetches them together."""

    def read(self, location: Location) -> bytes | memoryview:
        """The bytes of one image."""


class ShardWriter:
    """Writes shards of bounded size; the same images in the same order give the same bytes.

    Args:
        folder: Where the shards go. A shard has its final name only when it is complete.
        prefix: First part of the names.
        max_bytes: A shard is closed when it holds this many bytes.
        max_images: … or this many images.
    """

    def __init__(
        self, folder: Path, *, prefix: str = "images", max_bytes: int = 256 * 2**20, max_images: int = 100_000
    ) -> None:
        self.folder = folder
        self.prefix = prefix
        self.max_bytes = max_bytes
        self.max_images = max_images
        self.shards: list[Path] = []
        self.images = 0
        self._file: BinaryIO | None = None
        self._in_shard = 0

    def add(self, data: bytes | memoryview, extension: str) -> Location:
        """Append one image file.

        Args:
            data: The file's bytes, written as they are.
            extension: ``jpg``, ``png``, …: how WebDataset readers know the format.

        Raises:
            StorageError: When the disk is full or not writable.
        """
        path = self.folder / f"{self.prefix}-{len(self.shards):05d}.tar"
        with storage_errors(path):
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = self._temporary(path).open("wb")
                self._in_shard = 0
            member = tarfile.TarInfo(f"{self.images:09d}.{extension.lower()}")
            member.size = len(data)
            member.mode = 0o644
            # Everything else that tar records (owner, time) stays 0: the bytes depend on the images alone.
            self._file.write(member.tobuf(tarfile.USTAR_FORMAT))
            location = Location(len(self.shards), self._file.tell(), len(data))
            self._file.write(data)
            self._file.write(bytes(-len(data) % _BLOCK))
        self.images += 1
        self._in_shard += 1
        if self._in_shard >= self.max_images or self._file.tell() >= self.max_bytes:
            self._finish()
        return location

    def close(self) -> list[Path]:
        """Complete the last shard and return all of them, in order."""
        if self._file is not None:
            self._finish()
        return self.shards

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
            self._file = None

    def _finish(self) -> None:
        assert self._file is not None
        path = self.folder / f"{self.prefix}-{len(self.shards):05d}.tar"
        with storage_errors(path):
            self._file.write(bytes(2 * _BLOCK))  # two empty blocks end an archive
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary(path).replace(path)
        self.shards.append(path)
        self._file = None

    def _temporary(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.{os.getpid()}.tmp")


class ShardReader:
    """Random access to local shards, opened on first use; safe to share between threads.

    Args:
        shards: The shards' paths, in the order that locations count them.

    Raises:
        InputError: When a shard is missing.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = tuple(Path(shard) for shard in shards)
        for path in self.shards:
            if not path.is_file():
                raise InputError(
                    f"The shard {path} is missing.",
                    expected="the shards that the dataset's handle names",
                    action="run `dvc pull`, or the curation stage again",
                )
        self._files: dict[int, int] = {}

    def prepare(self, locations: Sequence[Location]) -> None:
        """Nothing to do: the system reads ahead."""

    def read(self, location: Location) -> bytes:
        """The bytes of one image.

        They are read, not mapped: a page of a map that cannot be had (a shard cut while it is mapped, a disk's error)
        ends the process, a read that fails is an error.

        Raises:
            InputError: When the shard is shorter than the location says: it was replaced or cut.
            OSError: When it is gone or the disk does not give it.
        """
        path = self.shards[location.shard]
        file = self._files.get(location.shard)
        if file is not None:
            data = os.pread(file, location.length, location.offset)
        else:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            data = os.pread(file, location.length, location.offset)
            # Another thread may have opened it meanwhile; and a process may have so many files open, not more.
            if len(self._files) >= _OPEN or self._files.setdefault(location.shard, file) != file:
                os.close(file)
        if len(data) < location.length:
            raise InputError(
                f"The shard {path} ends before an image that the manifest places in it.",
                found=f"{path.stat().st_size:,} bytes",
                expected=f"at least {location.offset + location.length:,}",
                action="run `dvc pull`, or the curation stage again",
            )
        return data

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes open their own files.
        return ShardReader, (self.shards,)


def open_shards(dataset: DatasetHandle, config: LoaderConfig) -> ImageSource:
    """The dataset's shards: beside its manifest, or on S3 when the configuration says so.

    Raises:
        InputError: When a shard is missing.
        StorageError: When S3 does not answer or refuses.
    """
    if config.shards is None:
        return ShardReader(dataset.shards)
    from dinomill.images.remote import RemoteShards

    names = [path.name for path in dataset.shards]
    return RemoteShards(config.shards, names, cache=config.shard_cache, cache_bytes=config.shard_cache_mb * 10**6)
