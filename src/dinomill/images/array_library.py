"""The few array operations in which numpy and torch differ, so that one piece of code serves both."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class ArrayLibrary(Protocol):
    """What batched crops need of an array library. Arrays are float32 unless said otherwise."""

    def put(self, array: npt.NDArray[Any]) -> Any:
        """Bring a small numpy array to where the images are, floating-point numbers as float32."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Zeros."""

    def floats(self, array: Any) -> Any:
        """As float32."""

    def integers(self, array: Any) -> Any:
        """As int64."""

    def floor(self, array: Any) -> Any:
        """Element by element."""

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """Element by element; ``yes`` and ``no`` may be numbers."""

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        """Axes in another order."""

    def add_to_columns(self, matrix: Any, columns: Any, values: Any) -> None:
        """``matrix[row, columns[row]] += values[row]`` for every row of ``[R, E]``."""


class NumpyLibrary:
    """On a CPU, without torch's threads: loader workers are the parallelism."""

    def put(self, array: npt.NDArray[Any]) -> Any:
        """See ArrayLibrary."""
        return array.astype(np.float32) if array.dtype.kind == "f" else array

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """See ArrayLibrary."""
        return np.zeros(shape, dtype=np.float32)

    def floats(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return array.astype(np.float32)

    def integers(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return array.astype(np.int64)

    def floor(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return np.floor(array)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """See ArrayLibrary."""
        return np.where(condition, yes, no)

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        """See ArrayLibrary."""
        return array.transpose(order)

    def add_to_columns(self, matrix: Any, columns: Any, values: Any) -> None:
        """See ArrayLibrary."""
        matrix[np.arange(len(matrix)), columns] += values


class TorchLibrary:
    """On any device. Nothing here waits for the device.

    Args:
        device: Where the images are, a ``torch.device``.
    """

    def __init__(self, device: Any) -> None:
        import torch

        self._torch = torch
        self._device = device

    def put(self, array: npt.NDArray[Any]) -> Any:
        """See ArrayLibrary."""
        tensor = self._torch.from_numpy(np.ascontiguousarray(array))
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """See ArrayLibrary."""
        return self._torch.zeros(shape, device=self._device)

    def floats(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return array.float()

    def integers(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return array.long()

    def floor(self, array: Any) -> Any:
        """See ArrayLibrary."""
        return self._torch.floor(array)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """See ArrayLibrary."""
        return self._torch.where(condition, yes, no)

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        """See ArrayLibrary."""
        return array.permute(order)

    def add_to_columns(self, matrix: Any, columns: Any, values: Any) -> None:
        """See ArrayLibrary."""
        matrix.scatter_add_(1, columns[:, None], values[:, None])


def library_of(array: Any) -> ArrayLibrary:
    """The library that an array belongs to."""
    return NumpyLibrary() if isinstance(array, np.ndarray) else TorchLibrary(array.device)
