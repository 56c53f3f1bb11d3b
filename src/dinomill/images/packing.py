"""Many arrays in one piece of memory: one copy to a device instead of a hundred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

_ALIGNED = 64  # bytes; a view of another type must begin at a multiple of its size

Bytes = npt.NDArray[np.uint8]


class Writes(Protocol):
    """An array that does not exist yet and is written where it belongs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array."""

    def write(self, out: Any) -> None:
        """Fill it."""


@dataclass(frozen=True)
class Blank:
    """Room for an array that its maker writes later."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def write(self, out: Any) -> None:
        """Leave it."""


class Entry(NamedTuple):
    """One array's place."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Layout:
    """Where each array lies in a piece of memory."""

    entries: tuple[Entry, ...]
    size: int  # bytes

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any] | Writes]) -> Layout:
        """One after the other."""
        entries, end = [], 0
        for name, array in arrays.items():
            shape = tuple(int(n) for n in array.shape)
            entries.append(Entry(name, array.dtype.name, shape, end))
            length = int(np.prod(shape, dtype=np.int64)) * array.dtype.itemsize
            end += -(-length // _ALIGNED) * _ALIGNED
        return cls(tuple(entries), end)

    def pack(self, arrays: Mapping[str, npt.NDArray[Any] | Writes], memory: Bytes) -> dict[str, npt.NDArray[Any]]:
        """Write the arrays into memory of at least ``size`` bytes; returns them there, by name."""
        there = {}
        for entry in self.entries:
            place = memory[entry.offset : entry.offset + self._length(entry)].view(entry.dtype).reshape(entry.shape)
            array = arrays[entry.name]
            if isinstance(array, np.ndarray):
                place[...] = array
            else:
                array.write(place)
            there[entry.name] = place
        return there

    def unpack(self, memory: torch.Tensor) -> dict[str, torch.Tensor]:
        """Tensors by name in uint8 memory on any device, without a copy."""
        return {
            entry.name: memory[entry.offset : entry.offset + self._length(entry)]
            .view(getattr(torch, entry.dtype))
            .reshape(entry.shape)
            for entry in self.entries
        }

    @staticmethod
    def _length(entry: Entry) -> int:
        return int(np.prod(entry.shape, dtype=np.int64)) * np.dtype(entry.dtype).itemsize
