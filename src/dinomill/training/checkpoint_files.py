"""The files of a checkpoint: tensors and JSON, nothing that can be executed.

    step_00000400/
      meta.json                 step, job, extra values, each file's length and sha256; sealed with a sha256 of its own
      part_00000.safetensors    the tensors, or slices of them, that one process held

The layout of a part is that of the safetensors format, so that any of its readers opens it. It is written here because
it is hashed on the way, without Python's lock, beside the training. The header's metadata say of which part of which
whole tensor a slice is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinomill.storage.atomic import storage_errors, write_text

# Raised when the names of the tensors, the files or the meaning of meta.json change.
FORMAT = 2

META_NAME = "meta.json"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 8 * 2**20  # bytes hashed and written at a time


class DamagedError(Exception):
    """A checkpoint that is not what was written."""


class Slice(NamedTuple):
    """A part of a whole tensor."""

    tensor: Tensor  # on the host when it is written
    offset: tuple[int, ...]
    whole: tuple[int, ...]  # shape of the whole


@dataclass(frozen=True)
class FileRecord:
    """What a file must be like to be believed."""

    name: str
    size: int
    sha256: str


def write_part(path: Path, slices: Mapping[str, Slice]) -> FileRecord:
    """Write slices as one safetensors file.

    Raises:
        StorageError: When the disk is full or not writable.
        DamagedError: When a tensor holds a number that is not finite: such a state is never kept.
    """
    places = {name: [part.offset, part.whole] for name, part in slices.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "places": json.dumps(places)}}
    end = 0
    for name, part in slices.items():
        size = part.tensor.numel() * part.tensor.element_size()
        span = [end, end := end + size]
        header[name] = {"dtype": _DTYPES[part.tensor.dtype], "shape": list(part.tensor.shape), "data_offsets": span}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the data begin at a multiple of 8
    digest = hashlib.sha256()
    with storage_errors(path), path.open("wb") as file:
        for piece in _pieces(text, slices):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(path.name, 8 + len(text) + end, digest.hexdigest())


def _pieces(text: bytes, slices: Mapping[str, Slice]) -> Iterator[bytes | memoryview]:
    yield len(text).to_bytes(8, "little")
    yield text
    for name, part in slices.items():
        if part.tensor.is_floating_point() and not math.isfinite(float(part.tensor.sum(dtype=torch.float64))):
            raise DamagedError(f"{name} holds a number that is not finite")
        data = part.tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(data), _CHUNK):
            yield data[start : start + _CHUNK].data


def check_part(folder: Path, record: FileRecord) -> None:
    """Read a file and compare it with what was written.

    Raises:
        DamagedError: When it differs.
        OSError: When it cannot be read.
    """
    path = folder / record.name
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != record.size:
            raise DamagedError(f"{path} has {size:,} bytes, {record.size:,} were written")
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != record.sha256:
        raise DamagedError(f"{path} is not what was written: its sha256 differs")


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write ``meta.json`` with its seal, and see to it that the folder's entries are on the disk."""
    write_text(folder / META_NAME, json.dumps({**meta, "seal": _seal(meta)}, indent=1))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_meta(folder: Path) -> dict[str, Any]:
    """Read ``meta.json``.

    Raises:
        DamagedError: When it is no JSON, or not what was written.
        OSError: When it cannot be read.
    """
    path = folder / META_NAME
    try:
        meta: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedError(f"{path} is no JSON: {error}") from None
    if not isinstance(meta, dict):
        raise DamagedError(f"{path} is not what was written")
    seal = meta.pop("seal", None)
    # Older formats had none; what they are is said by their number.
    if meta.get("format") == FORMAT and seal != _seal(meta):
        raise DamagedError(f"{path} is not what was written: its sha256 differs")
    return meta


def _seal(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


class Parts:
    """The parts of a checkpoint, read slice by slice.

    Args:
        folder: The checkpoint.
        names: Its files.

    Raises:
        DamagedError: When a file's header is not readable.
        OSError: When a file is not there.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._where: dict[str, list[tuple[str, tuple[int, ...], tuple[int, ...]]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name in names:
            with _opened(folder / name) as file:
                places = json.loads(file.metadata()["places"])
                for key in file.keys():  # noqa: SIM118 (it is no mapping)
                    offset, whole = places[key]
                    shape = tuple(file.get_slice(key).get_shape())
                    self._where.setdefault(key, []).append((name, tuple(offset), shape))
                    self.shapes[key] = tuple(whole)

    def read(self, wanted: Mapping[str, Slice]) -> dict[str, Tensor]:
        """Slices of the whole tensors, each of the shape and dtype of the tensor given, on the host.

        Raises:
            DamagedError: When a tensor is missing or has another shape.
        """
        found = {name: torch.empty(part.tensor.shape, dtype=part.tensor.dtype) for name, part in wanted.items()}
        todo: dict[str, list[tuple[str, tuple[int, ...], tuple[int, ...]]]] = {}
        for name, part in wanted.items():
            if self.shapes.get(name) != part.whole:
                have = self.shapes.get(name, "nothing")
                raise DamagedError(f"{name} of shape {part.whole} is wanted, {have} is there")
            for file, offset, shape in self._where[name]:
                todo.setdefault(file, []).append((name, offset, shape))
        for file_name, entries in todo.items():
            with _opened(self._folder / file_name) as file:
                for name, offset, shape in entries:
                    _copy_overlap(file, name, offset, shape, wanted[name].offset, found[name])
        return found


def _copy_overlap(
    file: Any, name: str, offset: tuple[int, ...], shape: tuple[int, ...], start: tuple[int, ...], target: Tensor
) -> None:
    """Copy what a saved slice and a wanted one have in common."""
    if not shape:
        target.copy_(file.get_tensor(name))
        return
    low = [max(a, b) for a, b in zip(offset, start, strict=True)]
    sizes = zip(offset, shape, start, target.shape, strict=True)
    high = [min(a + size, b + wanted) for a, size, b, wanted in sizes]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return
    here = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset, strict=True))
    there = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, start, strict=True))
    target[there].copy_(file.get_slice(name)[here])


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise DamagedError(f"{path} cannot be read: {error}") from None
