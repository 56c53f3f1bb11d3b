"""Memory for batches that is used again: fresh pages cost more to touch than a crop costs to compute.

Measured: filling new memory with ten crops an image took half of the loader's time.
"""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict

import numpy as np

from dinomill.arrays import Floats


class BufferPool:
    """Gives out float32 arrays and takes each back by itself when nothing refers to it any more.

    A tensor made by ``torch.from_numpy`` keeps its array alive as long as any view of the tensor lives, so memory is
    never reused under somebody's eyes. Safe to share between threads; processes get their own.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[Floats]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> Floats:
        """An array of that shape; its content is whatever was there before."""
        size = int(np.prod(shape))
        with self._lock:
            memory = self._free[size].pop() if self._free[size] else np.empty(size, dtype=np.float32)
        # numpy's views keep the owner of their memory alive, not each other: this view is what lives with the tensor.
        view = memory.reshape(shape)
        if size:
            weakref.finalize(view, self._free[size].append, memory).atexit = False
        return view

    def __reduce__(self) -> tuple[object, ...]:
        return BufferPool, ()
