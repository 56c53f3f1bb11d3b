"""TorchServe's handler: encoded images in, embeddings out.

It is the archive's entry point and lies in it beside ``dinomill/`` (the library's prediction code), ``config.json`` and
``model.safetensors``. TorchServe wants exactly one class in this file.

Requests (the body of ``POST /predictions/<model>``) and their answers:

    an encoded image                          {"embedding": [...]}
    {"instances": [{"b64": "…"}, …]}          {"embeddings": [[...], …]}, in the order of the instances
    either, with "want" or X-Want             {"cls": [...], …}, or {"instances": [{"cls": [...], …}, …]}
    either, with Accept: application/octet-stream; dtype=float16      the embeddings' numbers, row by row

A request that is not understood is answered with 400 and ``{"error": "…"}``, one for which there was no time with 503;
the other requests of its batch are not affected, whatever goes wrong.
"""

from __future__ import annotations

import logging
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dinomill.errors import DinomillError, InputError
from dinomill.images.limits import MAX_MEGAPIXELS
from dinomill.serving.answers import BINARY, JSON, as_bytes, as_json
from dinomill.serving.backends.choice import EAGER, Backend, why_not
from dinomill.serving.budget import Budget, images_in_answer
from dinomill.serving.metrics import Meter, Metric
from dinomill.serving.requests import Request, Unanswered, read_request
from dinomill.serving.views import View

logger = logging.getLogger(__name__)

_RESPONSE_SECONDS, _STARTUP_SECONDS = 30.0, 120.0
_WARM_SHARE = 0.1  # of the time in which a worker has to be ready
_CHUNK_SECONDS = 2.0  # of one forward pass: after it is seen what time is left
_LARGEST_CHUNK = 32


class EmbeddingHandler:
    """Runs a :class:`dinomill.serving.predictor.Predictor` for TorchServe."""

    def initialize(self, context: Any) -> None:
        """Load the backbone that lies beside this file, and measure what the machine does with it.

        Args:
            context: TorchServe's context: the archive's folder, the GPU of this worker, ``model-config.yaml``.
        """
        import torch
        from PIL import Image

        from dinomill.serving.predictor import Predictor
        from dinomill.serving.warm_up import first_rate, sizes_to_warm, warm_up

        config = context.model_yaml_config or {}
        settings = config.get("handler", {})
        self.max_instances = int(settings.get("max_instances", 64))
        max_pixels = round(1e6 * float(settings.get("max_megapixels", MAX_MEGAPIXELS)))
        # Pillow refuses twice this: for pictures within files, as in icons, whose size no header says.
        Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)
        torch.set_num_threads(int(settings.get("threads", 1)))
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        self.predictor = Predictor(
            Path(properties["model_dir"]),
            device=device,
            backend=_backend(settings, device),
            normalise=bool(settings.get("normalise", False)),
            max_pixels=max_pixels,
        )
        self.answered = images_in_answer(float(settings.get("max_request_mb", 8)), self.predictor.embed_dim)
        self.grid = self.predictor.features.grid
        rate = first_rate(self.predictor)
        self.predictor.batch_size = max(1, min(_LARGEST_CHUNK, int(rate * _CHUNK_SECONDS)))
        sizes = sizes_to_warm(int(config.get("batchSize", 1)), self.predictor.batch_size)
        warm_up(self.predictor, sizes, rate, _WARM_SHARE * float(config.get("startupTimeout", _STARTUP_SECONDS)))
        self.budget = Budget(float(config.get("responseTimeout", _RESPONSE_SECONDS)), rate)
        self.meter = _meter(context)
        version = str(_described(context).get("modelVersion"))
        self.meter.started(rate, version=version, features=self.predictor.identity[:12], device=device)
        family = self.predictor.features.description.family
        logger.info("embedding model (%s) ready on %s, some %.1f images a second", family, device, rate)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any] | bytes]:
        """Answer a batch of requests.

        Args:
            data: A mapping a request; its ``body`` or ``data`` is what was posted.
            context: Takes the status of each request.

        Returns:
            One answer a request, in order: ready for JSON, or bytes.
        """
        answers: list[dict[str, Any] | bytes] = []
        for index, found in enumerate(
            self._answer([self._read(index, row, context) for index, row in enumerate(data)])
        ):
            context.set_response_content_type(index, BINARY if isinstance(found, bytes) else JSON)
            if isinstance(found, DinomillError):
                status = getattr(found, "status", 400)
                phrase = {400: "Bad Request", 503: "Service Unavailable"}.get(status, "Internal Server Error")
                context.set_response_status(code=status, phrase=phrase, idx=index)
            answers.append({"error": str(found)} if isinstance(found, DinomillError) else found)
        return answers

    def _read(self, index: int, row: dict[str, Any], context: Any) -> Request | DinomillError:
        try:
            header = _headers(context, index)
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
            most = max(1, int(self.answered * self.predictor.embed_dim / self._numbers(request.views)))
        else:
            most = self.answered
        if images > most:
            raise InputError(
                "The answer would be larger than this server sends.",
                found=f"{images} images, {', '.join(request.views)} of each",
                expected=f"at most {most} in one request",
                action="split it into several requests, or raise packaging.server.max_request_mb",
            )

    def _numbers(self, views: tuple[View, ...]) -> int:
        """About how many numbers an image's answer has."""
        features = self.predictor.features
        sizes = {
            "patches": self.grid**2 * features.dim,
            "pca": 10_000,  # a picture as base64
            "neighbours": 1_000,  # with small pictures
            "scores": 1_000,
            "embedding": self.predictor.embed_dim,
        }
        return sum(sizes.get(view, features.dim) for view in views)

    def _answer(self, requests: list[Request | DinomillError]) -> list[dict[str, Any] | bytes | DinomillError]:
        """All images of all requests in as few passes as they need; a bad one spoils its own request alone."""
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
        answers: list[dict[str, Any] | bytes | DinomillError] = []
        for number, request in enumerate(requests):
            if isinstance(request, Request):
                answers.append(self._one_answer(request, done.get(number, [])))
            else:
                answers.append(request)
        self.meter.called(answers, images, self.budget.rate, self.predictor.stopwatch.take())
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

    def _one_answer(self, request: Request, vectors: list[Any]) -> dict[str, Any] | bytes | DinomillError:
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


def _backend(settings: dict[str, Any], device: str) -> Backend | None:
    """The one that was measured to be the fastest, where it runs here; else PyTorch, which runs everywhere."""
    chosen = Backend.parse(settings.get("backend") or {}, where="model-config.yaml")
    if chosen == EAGER or device != "cpu":
        return None
    reason = why_not(chosen)
    if reason is not None:
        logger.warning("The archive was packaged for %s, and here is %s: PyTorch computes instead.", chosen, reason)
        return None
    return chosen


def _headers(context: Any, index: int) -> dict[str, str]:
    """The request's headers, by names in small letters: clients write them as they like."""
    headers = context.get_all_request_header(index) or {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _described(context: Any) -> dict[str, Any]:
    return dict((getattr(context, "manifest", None) or {}).get("model", {}))


def _meter(context: Any) -> Meter:
    """Counts for TorchServe, which reads each value from a line of the worker's output."""
    cache: Any = getattr(context, "metrics", None)

    def write(metric: Metric, value: float, labels: list[str]) -> None:
        from ts.metrics.metric_type_enum import MetricTypes

        kind = MetricTypes(metric.kind)
        if metric.name not in cache.cache.get(kind, {}):  # a server whose list is another
            cache.add_metric_to_cache(metric.name, metric.unit, list(metric.labels), kind)
        cache.get_metric(metric.name, kind).add_or_update(value, labels)

    model = str(_described(context).get("modelName"))
    return Meter(write if cache is not None else lambda *_: None, model)


def _unexpected(error: Exception) -> Unanswered:
    logger.error("a request failed unexpectedly", exc_info=error)
    return Unanswered("The request could not be answered.", 500, found=type(error).__name__)
