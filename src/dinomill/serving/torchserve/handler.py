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

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinomill.errors import DinomillError, InputError
from dinomill.serving.answers import BINARY, JSON
from dinomill.serving.metrics import Metric
from dinomill.serving.processes import RESPONSE_SECONDS, STARTUP_SECONDS
from dinomill.serving.worker import Answer, Worker, status_of


class EmbeddingHandler:
    """Hands TorchServe's requests to a :class:`dinomill.serving.worker.Worker`."""

    def initialize(self, context: Any) -> None:
        """Load the backbone that lies beside this file, and measure what the machine does with it.

        Args:
            context: TorchServe's context: the archive's folder, the GPU of this worker, ``model-config.yaml``.
        """
        import torch

        config = context.model_yaml_config or {}
        properties, described = context.system_properties, _described(context)
        gpu = properties.get("gpu_id")
        self.worker = Worker(
            Path(properties["model_dir"]),
            config.get("handler", {}),
            device=f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu",
            seconds=float(config.get("responseTimeout", RESPONSE_SECONDS)),
            startup=float(config.get("startupTimeout", STARTUP_SECONDS)),
            batch=int(config.get("batchSize", 1)),
            model=str(described.get("modelName")),
            version=str(described.get("modelVersion")),
            write=_writer(context),
        )
        self.predictor, self.budget = self.worker.predictor, self.worker.budget

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch of requests.

        Args:
            data: A mapping a request; its ``body`` or ``data`` is what was posted.
            context: Takes the status of each request.

        Returns:
            One answer a request, in order: JSON or numbers, as they are sent.
        """
        answers: list[bytes] = []
        asked = [self.worker.read(row, _headers(context, index)) for index, row in enumerate(data)]
        for index, answer in enumerate(self.worker.answer(asked)):
            context.set_response_content_type(index, BINARY if isinstance(answer, bytes) else JSON)
            found = self._encoded(answer)
            if isinstance(found, DinomillError):
                status = status_of(found)
                phrase = {400: "Bad Request", 503: "Service Unavailable"}.get(status, "Internal Server Error")
                context.set_response_status(code=status, phrase=phrase, idx=index)
            answers.append(_json({"error": str(found)}) if isinstance(found, DinomillError) else found)
        return answers

    def _encoded(self, answer: Answer) -> bytes | DinomillError:
        """As it is sent: TorchServe would indent each number by itself, and drops a worker that answers too much."""
        found = _json(answer) if isinstance(answer, dict) else answer
        if isinstance(found, bytes) and len(found) > self.worker.answer_bytes:
            return InputError(
                "The answer is larger than this server sends.",
                found=f"{len(found) / 2**20:.1f} MB",
                expected=f"at most {self.worker.answer_bytes / 2**20:.1f} MB",
                action="ask for fewer images, or for less of each",
            )
        return found


def _json(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()


def _headers(context: Any, index: int) -> dict[str, str]:
    """The request's headers, by names in small letters: clients write them as they like."""
    headers = context.get_all_request_header(index) or {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _described(context: Any) -> dict[str, Any]:
    return dict((getattr(context, "manifest", None) or {}).get("model", {}))


def _writer(context: Any) -> Callable[[Metric, float, list[str]], None]:
    """Counts for TorchServe, which reads each value from a line of the worker's output."""
    cache: Any = getattr(context, "metrics", None)

    def write(metric: Metric, value: float, labels: list[str]) -> None:
        from ts.metrics.metric_type_enum import MetricTypes

        kind = MetricTypes(metric.kind)
        if metric.name not in cache.cache.get(kind, {}):  # a server whose list is another
            cache.add_metric_to_cache(metric.name, metric.unit, list(metric.labels), kind)
        cache.get_metric(metric.name, kind).add_or_update(value, labels)

    return write if cache is not None else lambda *_: None
