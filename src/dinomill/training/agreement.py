"""How processes come to the same decision: the main one decides and tells the others, or all are asked.

What one process sees of a file system, of a signal or of a clock, another need not see at the same moment. A branch
that leads to a collective is therefore taken on what all of them were told. Messages are JSON between host tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dinomill.errors import DinomillError, from_row, to_row
from dinomill.training.parallel import World

Value = TypeVar("Value")


class Agreement:
    """Decisions that all processes share.

    Args:
        world: The processes.
        group: The channel; None is the default one. A thread needs one of its own.
    """

    def __init__(self, world: World, group: dist.ProcessGroup | None = None) -> None:
        self.world = world
        self._group = group

    def decided(self, decide: Callable[[], Value]) -> Value:
        """What the main process decides (a plain value, as JSON keeps it), in all processes.

        Raises:
            DinomillError: What deciding raised, in all processes.
        """
        if self.world.size == 1:
            return decide()
        answer: dict[str, Any] = {}
        crash: Exception | None = None
        if self.world.is_main:
            try:
                answer = {"value": decide()}
            except DinomillError as error:
                answer = {"error": to_row(error)}
            except Exception as error:
                crash = error
                answer = {"error": to_row(DinomillError(f"The main process failed: {type(error).__name__}: {error}"))}
        answer = json.loads(self._broadcast(json.dumps(answer).encode()))
        if crash is not None:
            raise crash
        if "error" in answer:
            raise from_row(answer["error"])
        value: Value = answer["value"]
        return value

    def gathered(self, value: Any) -> list[Any]:
        """A plain value of each process, in order of rank, in all processes."""
        if self.world.size == 1:
            return [value]
        message = json.dumps(value).encode()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world.size)]
        dist.all_gather(lengths, torch.tensor([len(message)]), group=self._group)
        longest = int(torch.cat(lengths).max())
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world.size)]
        dist.all_gather(parts, _as_tensor(message, longest), group=self._group)
        return [json.loads(bytes(part[: int(length)].tolist())) for part, length in zip(parts, lengths, strict=True)]

    def _broadcast(self, message: bytes) -> bytes:
        length = torch.tensor([len(message)])
        dist.broadcast(length, 0, group=self._group)
        text = _as_tensor(message, int(length)) if self.world.is_main else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(text, 0, group=self._group)
        return text.numpy().tobytes()


class Vote:
    """Whether any process was told to stop, known one step late: no step waits for the others to be asked.

    Args:
        world: The processes.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: tuple[dist.Work, Tensor] | None = None

    def ask(self, flag: bool) -> bool:
        """Put this step's question and return the answer to the last one's; every process must call it each step."""
        if self._world.size == 1:
            return flag
        answer = self.close()
        number = torch.tensor(int(flag))  # on the host: gloo carries it, and a GPU is not waited for
        work = dist.all_reduce(number, op=dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._asked = work, number
        return answer

    def close(self) -> bool:
        """Wait for the question that is open; False where there is none."""
        if self._asked is None:
            return False
        work, number = self._asked
        self._asked = None
        work.wait()
        return bool(number)


def _as_tensor(message: bytes, length: int) -> Tensor:
    return torch.frombuffer(bytearray(message.ljust(length, b" ")), dtype=torch.uint8)
