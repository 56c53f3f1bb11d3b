"""LitServe's side of a worker: loads the model, gathers requests, answers them.

A question reaches a worker through LitServe's queue as the gateway would ask a server behind it, and is answered with a
status, a body and its type. So LitServe never sees an error: one in a batch would be the answer to all of it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from litserve import LitAPI
from litserve.loops.simple_loops import BatchedLoop
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, LoopResponseType

from dinomill.errors import DinomillError, InputError
from dinomill.serving.gateway.upstream import Question, Reply
from dinomill.serving.litserve.settings import MODEL, WEIGHTS, Settings
from dinomill.storage.hashing import hash_file

if TYPE_CHECKING:
    from dinomill.serving.worker import Answer

logger = logging.getLogger(__name__)

_BINARY = "application/octet-stream"
_WAIT_SECONDS = 1.0
_WATCH_SECONDS = 0.5
_STUCK, _ORPHANED = 75, 0  # exit codes


class Queue(LitSpec):
    """Stands for LitServe's own way of asking, which takes JSON alone: who asks puts into the queue himself."""

    def __init__(self) -> None:
        super().__init__()
        self.api_path = "/predictions"

    @property
    def status(self) -> dict[str, str]:
        """What LitServe knows of each worker: starting, ready, error."""
        return dict(self._server.workers_setup_status)


class EmbeddingAPI(LitAPI):
    """A worker process.

    Args:
        folder: What was packaged.
        settings: Of the folder.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(
            max_batch_size=settings.batch_size,
            batch_timeout=settings.max_delay_ms / 1000,
            spec=Queue(),
            loop=Gathering(),
        )
        self._folder, self._settings = folder, settings

    def setup(self, device: str) -> None:
        """Load the model; from now on the process ends when LitServe has ended, or when it is stuck.

        Raises:
            InputError: When another model lies in the folder than when the server started.
        """
        import torch

        from dinomill.serving.worker import Worker

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for LitServe, which ends its workers
        self._busy_since: float | None = None
        threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()
        self._worker = Worker(
            self._folder / MODEL,
            self._settings.worker,
            device=device if torch.cuda.is_available() else "cpu",
            seconds=self._settings.response_seconds,
            startup=self._settings.startup_seconds,
            batch=self._settings.batch_size,
            model=self._settings.model,
            version=self._settings.version,
        )
        self._require_same()  # after it was read: what is put there meanwhile is seen

    def _require_same(self) -> None:
        """Refuse what was put into the folder since: it would be answered with under the old version's name."""
        weights, now = self._folder / MODEL / WEIGHTS, Settings.read(self._folder)
        pairs = [("archive", now.archive_sha256, self._settings.archive_sha256)]
        if self._settings.weights_sha256:  # packages of before do not say it
            pairs.append(("weights", hash_file(weights), self._settings.weights_sha256))
        for what, found, expected in pairs:
            if found != expected:
                raise InputError(
                    f"{self._folder} holds another model than the one that is served here.",
                    found=f"sha256 {found} of its {what}",
                    expected=f"sha256 {expected}, of {self._settings.model}, version {self._settings.version}",
                    action="start the server again, which then serves what lies there, or package the folder again",
                )

    def decode_request(self, request: Question) -> Question:
        """As it is: whatever goes wrong in reading it is its own answer."""
        return request

    def predict(self, x: list[Question]) -> list[Reply]:
        """Answer a batch."""
        self._busy_since = time.monotonic()
        try:
            asked = [self._worker.read({"body": one.body}, _headers(one)) for one in x]
            return [reply(answer) for answer in self._worker.answer(asked)]
        finally:
            self._busy_since = None

    def encode_response(self, output: Reply) -> Reply:
        """As it is."""
        return output

    def _watch(self, parent: int) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            if os.getppid() != parent:
                os._exit(_ORPHANED)
            since = self._busy_since
            if since is not None and time.monotonic() - since > self._settings.response_seconds:
                logger.error("a batch took longer than %g seconds; the worker ends", self._settings.response_seconds)
                os._exit(_STUCK)


class Gathering(BatchedLoop):
    """Waits for a request asleep, and then for its company.

    LitServe's own loop looks into the queue a thousand times a second, busy or not.
    """

    @property
    def worker_id(self) -> int:
        """The process: who waits for an answer sees by it that nobody computes it any more."""
        return os.getpid()

    def get_batch_requests(self, lit_api: LitAPI, request_queue: Any, transport: Any) -> tuple[list[Any], list[Any]]:
        """The next batch; empty when nobody asked for a while."""
        batch: list[Any] = []
        until = time.monotonic() + _WAIT_SECONDS
        while len(batch) < lit_api.max_batch_size:
            try:
                queue_id, uid, asked, question = request_queue.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                break
            if not batch:
                until = time.monotonic() + lit_api.batch_timeout
            if time.monotonic() - asked < lit_api.request_timeout:  # else nobody waits for it any more
                self.put_response(transport, queue_id, uid, (), LitAPIStatus.START, LoopResponseType.REGULAR)
                batch.append((queue_id, uid, question))
        return batch, []


def reply(answer: Answer) -> Reply:
    """What is sent of an answer."""
    from dinomill.serving.worker import status_of

    if isinstance(answer, bytes):
        return Reply(200, answer, _BINARY)
    said = {"error": str(answer)} if isinstance(answer, DinomillError) else answer
    return Reply(status_of(answer), json.dumps(said).encode())


def _headers(question: Question) -> dict[str, str]:
    found = {"accept": question.accept, "x-want": question.want}
    return {name: value for name, value in found.items() if value}
