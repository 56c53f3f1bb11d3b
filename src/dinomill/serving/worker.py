"""A packaged model, loaded and asked in batches: what every server's worker does, whichever program the server is.

A server hands over requests as they came (a body, some headers) and gets an answer or an error for each, in order. A
request that is not understood, or for which there was no time, affects no other one of its batch, whatever goes wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from dinomill.errors import DinomillError, InputError
from dinomill.images.limits import MAX_MEGAPIXELS
from dinomill.serving.answer_size import AnswerSize
from dinomill.serving.answers import as_bytes, as_json
from dinomill.serving.backends.choice import EAGER, Backend, why_not
from dinomill.serving.budget import Budget, images_in_answer
from dinomill.serving.metrics import Meter, Metric
from dinomill.serving.processes import RESPONSE_SECONDS, STARTUP_SECONDS
from dinomill.serving.requests import Request, Unanswered, read_request
from dinomill.serving.views import View

logger = logging.getLogger(__name__)

Answer = dict[str, Any] | bytes | DinomillError

_WARM_SHARE = 0.1  # of the time in which a worker has to be ready
_CHUNK_SECONDS = 2.0  # of one forward pass: after it is seen what time is left
_LARGEST_CHUNK = 32


class Worker:
    """Runs a :class:`dinomill.serving.predictor.Predictor` for a server.

    Args:
        folder: Of the backbone, with its program, probe and index where it has them.
        settings: What was baked in: ``max_instances``, ``max_megapixels``, ``max_request_mb``, ``threads``,
            ``normalise``, ``backend``, ``answer_bytes``.
        device: Where to run.
        seconds: After which whoever waits for a batch gives up.
        startup: Seconds in which it has to be ready.
        batch: Requests that are computed together at most.
        model: The name under which it is served.
        version: Of the model.
        write: Takes what is counted; see `Meter`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        device: str = "cpu",
        seconds: float = RESPONSE_SECONDS,
        startup: float = STARTUP_SECONDS,
        batch: int = 1,
        model: str,
        version: str,
        write: Callable[[Metric, float, list[str]], None] = lambda *_: None,
    ) -> None:
        import torch
        from PIL import Image

        from dinomill.serving.predictor import Predictor
        from dinomill.serving.warm_up import first_rate, sizes_to_warm, warm_up

        self.max_instances = int(settings.get("max_instances", 64))
        max_pixels = round(1e6 * float(settings.get("max_megapixels", MAX_MEGAPIXELS)))
        # Pillow refuses twice this: for pictures within files, as in icons, whose size no header says.
        Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)
        torch.set_num_threads(int(settings.get("threads", 1)))
        self.predictor = Predictor(
            folder,
            device=device,
            backend=backend_here(settings, device),
            dtype=dtype_here(settings, device),
            normalise=bool(settings.get("normalise", False)),
            max_pixels=max_pixels,
        )
        self._answered = images_in_answer(float(settings.get("max_request_mb", 8)), self.predictor.embed_dim)
        self._sizes: dict[tuple[bool, bool], AnswerSize] = {}
        self.answer_bytes = max(
            int(float(settings.get("max_request_mb", 8)) * 2**20), int(settings.get("answer_bytes", 0))
        )
        rate = first_rate(self.predictor)
        self.predictor.batch_size = max(1, min(_LARGEST_CHUNK, int(rate * _CHUNK_SECONDS)))
        warm_up(self.predictor, sizes_to_warm(batch, self.predictor.batch_size), rate, _WARM_SHARE * startup)
        self.budget = Budget(seconds, rate)
        self._meter = Meter(write, model)
        self._meter.started(rate, version=version, features=self.predictor.identity[:12], device=device)
        family = self.predictor.features.description.family
        logger.info("embedding model (%s) ready on %s, some %.1f images a second", family, device, rate)

    def read(self, row: Mapping[str, Any], header: Mapping[str, str]) -> Request | DinomillError:
        """What a request asks, or why it is refused.

        Args:
            row: Its body, as `read_request` takes it.
            header: Its headers, by names in small letters.
        """
        try:
            request = read_request(
                row,
                self.max_instances,
                header.get("content-encoding", "").strip().lower() or None,
                wanted=header.get("x-want"),
                accept=header.get("accept"),
            )
            self.budget.require_possible(len(request.images))
            self._require_answerable(request)
            return request
        except DinomillError as error:
            return error
        except Exception as error:  # whatever it is, it is this request's alone
            return _unexpected(error)

    def _require_answerable(self, request: Request) -> None:
        """TorchServe drops a worker whose answer is larger than it may be, with the whole batch."""
        images = len(request.images)
        if request.views != ("embedding",):
            self.predictor.viewer.require(request.views)
            most = self.answer_bytes // self._size(request.views)
        else:
            most = self._answered
        if images > most:
            raise InputError(
                "The answer would be larger than this server sends.",
                found=f"{images} images, {', '.join(request.views)} of each",
                expected=f"at most {most} in one request" if most else f"at most {self.answer_bytes / 2**20:.1f} MB",
                action="split it into several requests, or raise packaging.server.max_request_mb",
            )

    def _size(self, views: tuple[View, ...]) -> int:
        """Bytes of an image's answer; probe and index are read when they are first asked for."""
        features, viewer = self.predictor.features, self.predictor.viewer
        kind = ("scores" in views, "neighbours" in views)
        if kind not in self._sizes:
            probe, index = viewer.probe if kind[0] else None, viewer.index if kind[1] else None
            self._sizes[kind] = AnswerSize(features.grid, features.dim, self.predictor.embed_dim, probe, index)
        return self._sizes[kind](views)

    def answer(self, requests: Sequence[Request | DinomillError]) -> list[Answer]:
        """All images of all requests in as few passes as they need; a bad one spoils its own request alone.

        Args:
            requests: As `read` gave them.

        Returns:
            For each: what is ready for JSON, bytes, or why there is neither.
        """
        counts = {number: len(one.images) for number, one in enumerate(requests) if isinstance(one, Request)}
        order = self.budget.admit(counts)
        asked = [one for number in order if isinstance(one := requests[number], Request)]
        try:
            vectors = self._vectors(asked)
        except Exception:
            logger.warning("the batch failed; each request is tried alone", exc_info=True)
            vectors = [self._alone(request) for request in asked]
        done = dict(zip(order, vectors, strict=True))
        # Refusing takes no time: what was refused would make the machine look faster than it is.
        images = sum(not isinstance(one, DinomillError) for found in vectors for one in found)
        self.budget.learn(images)
        answers: list[Answer] = []
        for number, request in enumerate(requests):
            if isinstance(request, Request):
                answers.append(self._one_answer(request, done.get(number, [])))
            else:
                answers.append(request)
        self._meter.called(answers, images, self.budget.rate, self.predictor.stopwatch.take())
        return answers

    def _vectors(self, requests: list[Request]) -> list[list[Any]]:
        """For each request its embeddings or errors, fewer than it has images where time was up."""
        plain = [request for request in requests if request.views == ("embedding",)]
        images = chain.from_iterable(request.images for request in plain)
        vectors = self.predictor.each(self.budget.in_time(images))
        done: dict[int, list[Any]] = {id(request): list(islice(vectors, len(request.images))) for request in plain}
        for request in requests:  # what only some ask for is computed for them alone
            if id(request) not in done:
                done[id(request)] = list[Any](self.predictor.see(self.budget.in_time(request.images), request.views))
        return [done[id(request)] for request in requests]

    def _alone(self, request: Request) -> list[Any]:
        try:
            return self._vectors([request])[0]
        except Exception as error:
            return [_unexpected(error)] * len(request.images)

    def _one_answer(self, request: Request, vectors: list[Any]) -> Answer:
        bad = [(number, vector) for number, vector in enumerate(vectors) if isinstance(vector, DinomillError)]
        if bad:
            number, error = bad[0]
            if request.single or isinstance(error, Unanswered):
                return error
            named = DinomillError(f"Instance {number}: {error}")
            named.__cause__ = error
            return named
        if len(vectors) < len(request.images):
            return self.budget.refusal(len(request.images))
        if request.form != "json":
            try:
                return as_bytes(vectors, request.form)
            except InputError as error:
                return error
        if request.views != ("embedding",):
            shown = [as_json(seen) for seen in vectors]
            return shown[0] if request.single else {"instances": shown}
        found = [vector.tolist() for vector in vectors]
        return {"embedding": found[0]} if request.single else {"embeddings": found}


def status_of(answer: Answer) -> int:
    """The status of HTTP with which an answer is sent."""
    return int(getattr(answer, "status", 400)) if isinstance(answer, DinomillError) else 200


def backend_here(settings: Mapping[str, Any], device: str) -> Backend | None:
    """The one that was measured to be the fastest, where it runs here; else PyTorch, which runs everywhere."""
    chosen = Backend.parse(settings.get("backend") or {}, where="the package's settings")
    if chosen == EAGER or device != "cpu":
        return None
    reason = why_not(chosen)
    if reason is not None:
        logger.warning("The archive was packaged for %s, and here is %s: PyTorch computes instead.", chosen, reason)
        return None
    return chosen


def dtype_here(settings: Mapping[str, Any], device: str) -> Literal["float32", "bfloat16"]:
    """Half precision on an accelerator where the trial found it good enough; a CPU's backend says it by itself."""
    chosen = Backend.parse(settings.get("backend") or {}, where="the package's settings")
    return "bfloat16" if device != "cpu" and chosen.precision == "bfloat16" else "float32"


def _unexpected(error: Exception) -> Unanswered:
    logger.error("a request failed unexpectedly", exc_info=error)
    return Unanswered("The request could not be answered.", 500, found=type(error).__name__)
