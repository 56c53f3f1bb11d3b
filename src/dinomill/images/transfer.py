"""Batches on their way to the device that trains: what differs between devices is here and nowhere else.

Everywhere: host memory for one packed batch, a copy of it, crops made from the copy. On a GPU the memory is
page-locked, and the copy and the crops run on a stream of their own, beside the step before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from dinomill.images.batches import Batch

Finish = Callable[[torch.Tensor], Batch]


@dataclass(frozen=True)
class Sent:
    """A batch that is on its way."""

    batch: Batch
    host: torch.Tensor | None  # what it is copied from
    ready: Any = None  # of the device: reached when the batch is there


class Transfer(Protocol):
    """How packed batches come to a device."""

    def allocate(self, size: int) -> torch.Tensor:
        """Host memory of that many bytes; called by workers."""

    def register(self, memory: torch.Tensor) -> None:
        """Make memory that processes share fit for fast copies."""

    def send(self, host: torch.Tensor, finish: Finish) -> Sent:
        """Begin to copy a packed batch and to make its crops; returns before they are there."""

    def receive(self, sent: Sent) -> Batch:
        """The batch, for use by what is launched from now on."""


class PlainTransfer:
    """Without streams: a CPU, the ``meta`` device.

    Args:
        device: Where batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def allocate(self, size: int) -> torch.Tensor:
        """See Transfer."""
        return torch.empty(size, dtype=torch.uint8)

    def register(self, memory: torch.Tensor) -> None:
        """See Transfer."""

    def send(self, host: torch.Tensor, finish: Finish) -> Sent:
        """See Transfer."""
        with torch.no_grad():
            return Sent(finish(host.to(self.device)), host)

    def receive(self, sent: Sent) -> Batch:
        """See Transfer."""
        return sent.batch


class CudaTransfer:
    """A side stream, one copy of page-locked memory a batch.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._driver: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        self._under_way: deque[Sent] = deque()
        self._registered: dict[int, torch.Tensor] = {}

    def allocate(self, size: int) -> torch.Tensor:
        """See Transfer. PyTorch keeps page-locked memory and gives it out again when its copies have ended."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def register(self, memory: torch.Tensor) -> None:
        """See Transfer. Locked once; the same pages serve batch after batch."""
        code = self._driver.cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
        if int(code) == 0:  # where the system refuses, copies still work, more slowly
            self._registered[memory.data_ptr()] = memory

    def send(self, host: torch.Tensor, finish: Finish) -> Sent:
        """See Transfer."""
        with torch.no_grad(), torch.cuda.stream(self._stream):
            batch = finish(host.to(self.device, non_blocking=True))
            ready = self._stream.record_event()
        sent = Sent(batch, host, ready)
        self._under_way.append(sent)
        return sent

    def receive(self, sent: Sent) -> Batch:
        """See Transfer."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(sent.ready)
        for tensor in sent.batch.tensors().values():  # their memory is given out again when this stream is done with it
            tensor.record_stream(current)
        while self._under_way and self._under_way[0].ready.query():
            self._under_way.popleft()  # host memory may be used again
        return sent.batch

    def __del__(self) -> None:
        if registered := self.__dict__.get("_registered"):
            torch.cuda.synchronize(self.device)
        for pointer in registered or ():
            self._driver.cudaHostUnregister(pointer)


def transfer_to(device: torch.device) -> Transfer:
    """The way to a device."""
    return CudaTransfer(device) if device.type == "cuda" else PlainTransfer(device)
