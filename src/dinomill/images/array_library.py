"""The few array operations in which numpy and torch differ, so that one piece of code serves both."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class ArrayLibrary(Protocol):
    """What batched crops need of an array library, beside what both have. Arrays are float32 unless said otherwise."""

    def line(self, length: int) -> Any:
        """0, 1, 2, … as float32."""

    def empty(self, shape: tuple[int, ...]) -> Any:
        """Memory that is written later."""

    def floats(self, array: Any) -> Any:
        """As float32."""

    def integers(self, array: Any) -> Any:
        """As int64."""

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """Element by element; ``yes`` and ``no`` may be numbers."""

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        """Axes in another order."""


class NumpyLibrary:
    """On a CPU, without torch's threads: loader workers are the parallelism."""

    def line(self, length: int) -> Any:
        """See ArrayLibrary."""
        return np.arange(length, dtype=np.float32)

    def empty(self, shape: tuple[int, ...]) -> Any:
        """See ArrayLibrary."""
        return np.empty(shape, dtype=np.float32)

    def floats(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return array.astype(np.float32)

    def integers(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return array.astype(np.int64)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """See ArrayLibrary."""
        return np.where(condition, yes, no)

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        """See ArrayLibrary."""
        return array.transpose(order)


class TorchLibrary:
    """On any device, ``meta`` too: nothing here waits for the device or reads from it.

    Args:
        device: Where the images are, a ``torch.device``.
    """

    def __init__(self, device: Any) -> None:
        import torch

        self._torch = torch
        self._device = device

    def line(self, length: int) -> Any:
        """See ArrayLibrary."""
        return self._torch.arange(length, dtype=self._torch.float32, device=self._device)

    def empty(self, shape: tuple[int, ...]) -> Any:
        """See ArrayLibrary."""
        return self._torch.empty(shape, device=self._device)

    def floats(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return array.float()

    def integers(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return array.long()

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """See ArrayLibrary."""
        return self._torch.where(condition, yes, no)

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        """See ArrayLibrary."""
        return array.permute(order)


def library_of(array: Any) -> ArrayLibrary:
    """The library that an array belongs to."""
    return NumpyLibrary() if isinstance(array, np.ndarray) else TorchLibrary(array.device)
