"""What comes of each file of `dinomill embed`: read where it is decoded, few at a time, while the network works."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinomill.commands.embed_parts import Done
from dinomill.commands.embed_sources import Candidate, LeftOut
from dinomill.errors import InputError, MachineError
from dinomill.images.decode_error import DecodeError
from dinomill.images.file_bytes import read_file

if TYPE_CHECKING:
    from dinomill.serving.predictor import Predictor

_UNREADABLE, _FAILED = "unreadable", "network_failed"
_ROOM = 2**30  # bytes of files that are in memory at once; a larger one is so alone
_IN_A_ROW = 8  # images with which the network fails before it is taken to be broken


class Unreadable(InputError):
    """A file that cannot be read now."""


class Room:
    """The memory that files take while they are decoded.

    Args:
        most: Bytes. A file that is larger waits until no other one is in memory.
    """

    def __init__(self, most: int = _ROOM) -> None:
        self._most, self._taken = most, 0
        self._free = threading.Condition()

    @contextmanager
    def content(self, file: Candidate) -> Iterator[bytes]:
        """The bytes of a file, which count within the block.

        Raises:
            InputError: When it cannot be read, or is larger than any image.
        """
        with self._free:
            self._free.wait_for(lambda: not self._taken or self._taken + file.size <= self._most)
            self._taken += file.size
        try:
            try:
                data = read_file(Path(file.path))
            except OSError as error:
                raise Unreadable(error.strerror or str(error)) from None
            yield data
        finally:
            with self._free:
                self._taken -= file.size
                self._free.notify_all()


def embed_each(files: Sequence[Candidate], predictor: Predictor, *, patches: bool) -> Iterator[Done]:
    """What comes of some files, in their order.

    Raises:
        MachineError: When the network fails with one image after the other: it would with all that follow.
    """
    from dinomill.serving.failures import NetworkFailed

    room = Room()
    contents = (partial(room.content, file) for file in files)
    found: Iterator[Any] = predictor.see(contents, ("embedding", "patches")) if patches else predictor.each(contents)
    failed = 0
    for file, seen in zip(files, found, strict=True):
        if isinstance(seen, NetworkFailed):
            failed += 1
            if failed == _IN_A_ROW:
                raise network_is_broken(f"{file.path}: {seen.found}", failed)
        elif not isinstance(seen, InputError):
            failed = 0
        if isinstance(seen, InputError):
            yield Done(file, left_out(file.path, seen))
        elif patches:
            yield Done(file, seen["embedding"], seen["patches"].astype(np.float16))
        else:
            yield Done(file, seen)


def left_out(path: str, error: InputError) -> LeftOut:
    """Why a file has no embedding."""
    from dinomill.serving.failures import NetworkFailed, NotFinite

    if isinstance(error, DecodeError):
        return LeftOut(path, str(error.reason), error.detail)
    if isinstance(error, Unreadable):
        return LeftOut(path, _UNREADABLE, error.problem)
    if isinstance(error, NetworkFailed):
        return LeftOut(path, _FAILED, str(error.found))
    return LeftOut(path, "not_finite" if isinstance(error, NotFinite) else "refused", error.problem)


def may_change(result: object) -> bool:
    """Whether a file that is left out may have an embedding next time."""
    return isinstance(result, LeftOut) and result.reason in (_UNREADABLE, _FAILED)


def require_some_network(files: Sequence[LeftOut]) -> None:
    """Where no file has an embedding, say so when that is the network's fault and not the images'.

    Raises:
        MachineError: When the network failed with one of them.
    """
    failed = [one for one in files if one.reason == _FAILED]
    if failed:
        raise network_is_broken(f"{failed[0].path}: {failed[0].detail}", len(failed))


def network_is_broken(found: str, images: int) -> MachineError:
    """What is said when the network fails with everything."""
    return MachineError(
        f"The network failed with {images} image{'s' * (images > 1)}, and with none in between did it not.",
        found=found,
        expected="a network that computes: memory for one image at least, a device that answers",
        action="free the device's memory, or choose another device; what was done is kept: the same command continues",
    )
