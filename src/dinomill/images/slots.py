"""Memory that the loader and its worker processes share, one slot a batch that is under way.

A slot is a file without a name (``memfd_create``): it goes when the last process that has it open ends, however that
ends, and it counts as the processes' memory, not against a container's /dev/shm. Workers open it through /proc.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch

from dinomill.arrays import Pixels

_KEPT = 32  # maps a worker keeps


class Slots:
    """The loader's side: gives slots out, and takes each back when nothing refers to its content any more.

    Args:
        register: Called with each new piece of memory, as uint8; it may keep it.
    """

    def __init__(self, register: Callable[[torch.Tensor], None]) -> None:
        self._register = register
        self._free: list[int] = []
        self._maps: dict[int, mmap.mmap] = {}
        self._files: list[int] = []
        self._lock = threading.Lock()

    def take(self) -> tuple[int, int]:
        """Process and file of a slot that nobody uses."""
        with self._lock:
            if not self._free:
                file = os.memfd_create("dinomill-batch", os.MFD_CLOEXEC)
                self._files.append(file)
                self._free.append(file)
            return os.getpid(), self._free.pop()

    def content(self, file: int) -> torch.Tensor:
        """A filled slot as uint8. The slot is free again when no view of the tensor is left."""
        size = os.fstat(file).st_size
        if file not in self._maps or len(self._maps[file]) < size:
            self._maps[file] = mmap.mmap(file, size)
            self._register(torch.from_numpy(np.frombuffer(self._maps[file], np.uint8)))
        view = np.frombuffer(self._maps[file], np.uint8)
        weakref.finalize(view, self.put_back, file).atexit = False
        return torch.from_numpy(view)

    def put_back(self, file: int) -> None:
        """The slot is not used any more."""
        with self._lock:
            self._free.append(file)

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", ()):
            os.close(file)


class SlotWriter:
    """A worker's side."""

    def __init__(self) -> None:
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()

    def memory(self, slot: tuple[int, int], size: int) -> Pixels:
        """A slot's memory, enlarged where it is too small, as uint8."""
        process, file = slot
        known = self._maps.pop(file, None)
        if known is None or len(known) < size:
            opened = os.open(f"/proc/{process}/fd/{file}", os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(opened).st_size < size:
                    os.ftruncate(opened, size + size // 8)  # batches differ: not anew for each that is a little larger
                known = mmap.mmap(opened, 0)
            finally:
                os.close(opened)
        self._maps[file] = known
        if len(self._maps) > _KEPT:
            self._maps.popitem(last=False)
        return np.frombuffer(known, np.uint8)
