"""LitServe's workers as the gateway's server behind: a question goes into their queue, without another connection."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from litserve.utils import LitAPIStatus, ResponseBufferItem, WorkerSetupStatus

from dinomill.errors import MachineError
from dinomill.serving.gateway.upstream import Question, Reply, Unreachable, Workers
from dinomill.serving.litserve.api import Queue
from dinomill.serving.litserve.settings import Settings
from dinomill.storage.processes import runs

_LOOK_SECONDS = 1.0
_SECONDS_OF_TRUTH = 0.25  # for how long what LitServe said of its workers is repeated


class Queued:
    """The workers of the LitServe in whose process this runs; an `Upstream` of the gateway.

    Args:
        queue: Theirs.
        settings: Of what they serve.
        workers: How many there should be.
    """

    def __init__(self, queue: Queue, settings: Settings, workers: int) -> None:
        self.model, self.version, self.archive_sha256 = settings.model, settings.version, settings.archive_sha256
        self.offers = settings.offers
        self.about: Mapping[str, Mapping[str, Any]] = settings.about
        self._queue, self._limits, self._workers = queue, settings.limits, workers
        self._most = settings.queue + workers * settings.batch_size
        self._said: tuple[float, int] | None = None

    async def predict(self, question: Question, seconds: float) -> Reply:
        """Ask the next free worker."""
        waiting = self._queue.response_buffer
        if len(waiting) >= self._most:
            return _error(503, "The server is busy: as many requests wait as may. Send it again.")
        if not self._ready():
            raise Unreachable("no worker has loaded the model")
        number, item = str(uuid.uuid4()), ResponseBufferItem(asyncio.Event())
        waiting[number] = item
        try:
            await self._answered(number, item, question, seconds)
        finally:
            waiting.pop(number, None)
        answer, status = item.response
        if status != LitAPIStatus.OK:
            return _error(500, "The request could not be answered.")
        return Reply(*answer)

    async def _answered(self, number: str, item: ResponseBufferItem, question: Question, seconds: float) -> None:
        """Put a question into the queue, and wait until it is answered."""
        asked = time.monotonic()
        try:
            self._queue.request_queue.put((self._queue.response_queue_id, number, asked, question))
        except (OSError, EOFError) as error:
            raise Unreachable(f"the queue: {type(error).__name__}") from None
        lost = 0
        while True:
            try:
                await asyncio.wait_for(item.event.wait(), _LOOK_SECONDS)
                return
            except TimeoutError:
                lost = lost + 1 if self._lost(item) else 0
                if lost > 1:  # once, it may be on its way
                    raise Unreachable("the worker that took it ended") from None
                if item.worker_id is None and not self._ready():
                    raise Unreachable("no worker is there to take it") from None
                if time.monotonic() - asked > seconds:
                    raise

    def _lost(self, item: ResponseBufferItem) -> bool:
        """Whether a question is with no living worker, nor in the queue any more."""
        if item.event.is_set():
            return False
        if item.worker_id is not None:
            return not runs(item.worker_id)
        try:
            return bool(self._queue.request_queue.empty())
        except (OSError, EOFError):
            return True

    async def workers(self) -> Workers:
        """How many have loaded the model, as LitServe knows it."""
        return Workers(self._ready(), self._workers)

    def _ready(self) -> int:
        """How many have loaded the model, a moment ago at most."""
        now = time.monotonic()
        if self._said is not None and now - self._said[0] < _SECONDS_OF_TRUTH:
            return self._said[1]
        try:
            states = self._queue.status
        except (OSError, EOFError) as error:
            raise Unreachable(f"LitServe: {type(error).__name__}") from None
        self._said = now, sum(state == WorkerSetupStatus.READY for state in states.values())
        return self._said[1]

    def limits(self) -> Mapping[str, int | float]:
        """What a request may ask."""
        return self._limits

    async def metrics(self) -> bytes:
        """None: LitServe gathers no metrics of its workers."""
        return b""

    async def keep(self) -> None:
        """Nothing has to be renewed."""

    def start(self, seconds: float) -> float:
        """LitServe has started them."""
        return 0.0 * seconds

    def stop(self) -> None:
        """LitServe stops them."""

    def interrupt(self) -> None:
        """Nothing waits."""

    def running(self) -> bool:
        """As long as this process."""
        return True

    def failure(self, problem: str) -> MachineError:
        """What went wrong stands in the terminal."""
        return MachineError(problem)


def _error(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"error": message}).encode())
