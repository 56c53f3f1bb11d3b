"""A worker's side of LitServe, in this process."""

from __future__ import annotations

import asyncio
import json
import queue
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinomill.errors import InputError
from dinomill.serving.gateway.upstream import Question, Unreachable
from dinomill.serving.litserve.api import EmbeddingAPI, Gathering
from dinomill.serving.litserve.queued import Queued
from dinomill.serving.litserve.settings import MODEL, Settings
from dinomill.serving.predictor import Predictor
from dinomill.serving.worker import Worker
from tests.serving.litserve.conftest import BATCHING


@pytest.fixture(autouse=True)
def _limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker sets it for its whole process, which here is the tests'."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture(scope="module")
def api(folder: Path) -> EmbeddingAPI:
    settings = Settings.read(folder)
    made = EmbeddingAPI(folder, settings)
    made._worker = Worker(folder / MODEL, settings.worker, model="mill", version="3")
    return made


def _question(body: bytes, accept: str = "application/json", want: str = "") -> Question:
    return Question(body, "application/octet-stream", accept, "1", want)


def test_a_bad_question_does_not_harm_its_batch(api: EmbeddingAPI, backbone: Path, photographs: list[bytes]) -> None:
    asked = [photographs[0], b"garbage", b"", b'{"instances": ' + b"[" * 100_000, photographs[1][:400], photographs[1]]
    replies = api.predict([_question(body) for body in asked])
    assert [reply.status for reply in replies] == [200, 400, 400, 400, 400, 200]
    assert all(json.loads(reply.body)["error"] for reply in replies[1:5])
    found = [json.loads(replies[number].body)["embedding"] for number in (0, 5)]
    assert np.allclose(found, Predictor(backbone)(photographs[:2]), atol=1e-5)


def test_bytes_and_views_are_answered(api: EmbeddingAPI, backbone: Path, photographs: list[bytes]) -> None:
    binary, views, unknown = api.predict(
        [
            _question(photographs[0], accept="application/octet-stream; dtype=float16"),
            _question(photographs[0], want="cls,patches"),
            _question(photographs[0], want="nonsense"),
        ]
    )
    assert binary.content_type == "application/octet-stream"
    expected = Predictor(backbone)(photographs[:1])[0]
    assert np.allclose(np.frombuffer(binary.body, "<f2"), expected, atol=1e-2)
    assert np.array(json.loads(views.body)["patches"]).shape == (8, 8, 64)
    assert unknown.status == 400


def test_a_worker_waits_asleep_and_leaves_out_what_nobody_waits_for(api: EmbeddingAPI) -> None:
    api.request_timeout = 5.0

    class Asked(queue.Queue):  # type: ignore[type-arg]
        looked = 0

        def get(self, block: bool = True, timeout: float | None = None) -> object:
            self.looked += 1
            return super().get(block, timeout)

    sent: list[object] = []

    class Transport:
        def send(self, item: object, consumer_id: int) -> None:
            sent.append(item)

    loop, asked = Gathering(), Asked()
    loop._restart_workers = True
    now = time.monotonic()
    for number, when in enumerate([now, now - 60, now]):
        asked.put((0, str(number), when, _question(b"")))
    batch, _ = loop.get_batch_requests(api, asked, Transport())
    assert [number for _, number, _ in batch] == ["0", "2"]
    assert len(sent) == 2  # who asks is told which process has it
    assert asked.looked == 4  # LitServe's own loop looks a hundred times in as long


def test_a_worker_does_not_answer_with_another_model_under_the_old_name(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "folder"
    shutil.copytree(folder, place)
    settings = Settings.read(place)
    EmbeddingAPI(place, settings)._require_same()
    weights = place / MODEL / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    for made in (
        EmbeddingAPI(place, settings),
        EmbeddingAPI(folder, settings.model_copy(update={"archive_sha256": ""})),
    ):
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(InputError, match="another model"):
                made.setup("cpu")
        finally:
            signal.signal(signal.SIGINT, before)


def test_a_worker_is_told_the_times_of_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, float] = {}
    monkeypatch.setattr("dinomill.serving.worker.Worker", lambda *_, **options: told.update(options))
    before = signal.getsignal(signal.SIGINT)
    EmbeddingAPI(folder, Settings.read(folder)).setup("cpu")
    signal.signal(signal.SIGINT, before)
    assert (told["seconds"], told["startup"]) == (BATCHING.response_seconds, BATCHING.startup_seconds)


def test_without_a_worker_that_is_ready_nobody_waits(folder: Path) -> None:
    class Known:
        """As the queue of LitServe, of whose workers one is loading."""

        def __init__(self) -> None:
            self.response_buffer: dict[str, object] = {}
            self.request_queue: queue.Queue[object] = queue.Queue()
            self.response_queue_id = 0
            self.status = {"/predictions_0": "starting"}

    known = Known()
    asked = Queued(known, Settings.read(folder), 1)  # type: ignore[arg-type]

    async def ask() -> None:
        await asked.predict(_question(b""), 30)

    start = time.monotonic()
    with pytest.raises(Unreachable, match="no worker"):
        asyncio.run(ask())
    assert time.monotonic() - start < 0.5
    known.status = {"/predictions_0": "ready"}
    asked._said = None

    async def ask_and_lose() -> None:
        waiting = asyncio.create_task(ask())
        await asyncio.sleep(0.1)
        known.status = {"/predictions_0": "starting"}
        await waiting

    with pytest.raises(Unreachable, match="no worker"):
        asyncio.run(ask_and_lose())
    assert time.monotonic() - start < 5
    assert not known.response_buffer
