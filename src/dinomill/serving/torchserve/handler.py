"""TorchServe's handler: encoded images in, embeddings out.

It is the archive's entry point and lies in it beside ``dinomill/`` (the library's prediction code), ``config.json`` and
``model.safetensors``. TorchServe wants exactly one class in this file.

Requests (the body of ``POST /predictions/<model>``) and their answers:

    an encoded image                          {"embedding": [...]}
    {"instances": [{"b64": "…"}, …]}          {"embeddings": [[...], …]}, in the order of the instances

A request that is not understood is answered with 400 and ``{"error": "…"}``; the other requests of its batch are not
affected.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dinomill.errors import DinomillError, InputError

logger = logging.getLogger(__name__)


class EmbeddingHandler:
    """Runs a :class:`dinomill.serving.predictor.Predictor` for TorchServe."""

    def initialize(self, context: Any) -> None:
        """Load the backbone that lies beside this file.

        Args:
            context: TorchServe's context: the archive's folder, the GPU of this worker, ``model-config.yaml``.
        """
        import torch

        from dinomill.serving.predictor import Predictor

        settings = (context.model_yaml_config or {}).get("handler", {})
        self.max_instances = int(settings.get("max_instances", 64))
        torch.set_num_threads(int(settings.get("threads", 1)))
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        self.predictor = Predictor(Path(properties["model_dir"]), device=device)
        logger.info("embedding model ready on %s", device)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answer a batch of requests.

        Args:
            data: A mapping a request; its ``body`` or ``data`` is what was posted.
            context: Takes the status of each request.

        Returns:
            One JSON-ready answer a request, in order.
        """
        answers = self._answer(data)
        for index, answer in enumerate(answers):
            context.set_response_content_type(index, "application/json")
            if "error" in answer:
                context.set_response_status(code=400, phrase="Bad Request", idx=index)
        return answers

    def _answer(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All images of all requests in as few passes as they need; a bad one spoils its own request alone."""
        requests = [self._read(row) for row in data]
        images = [image for request in requests if not isinstance(request, DinomillError) for image in request[0]]
        vectors = self.predictor.each(images)
        return [self._one_answer(request, vectors) for request in requests]

    def _read(self, row: dict[str, Any]) -> tuple[list[bytes], bool] | DinomillError:
        try:
            return read_request(row, self.max_instances)
        except DinomillError as error:
            return error

    def _one_answer(self, request: tuple[list[bytes], bool] | DinomillError, vectors: Iterator[Any]) -> dict[str, Any]:
        if isinstance(request, DinomillError):
            return {"error": str(request)}
        images, single = request
        mine = [next(vectors) for _ in images]
        bad = [(number, vector) for number, vector in enumerate(mine) if isinstance(vector, DinomillError)]
        if bad:
            number, error = bad[0]
            return {"error": str(error) if single else f"Instance {number}: {error}"}
        found = [vector.tolist() for vector in mine]
        return {"embedding": found[0]} if single else {"embeddings": found}


def read_request(row: Mapping[str, Any], max_instances: int) -> tuple[list[bytes], bool]:
    """The encoded images of a request, and whether it was a single raw image.

    Args:
        row: What TorchServe hands over: bytes for a raw body, a decoded mapping for ``application/json``.
        max_instances: How many images a request may carry.

    Raises:
        InputError: When the request has neither form.
    """
    body = row.get("body", row.get("data"))
    if isinstance(body, (bytes, bytearray)):
        if body.lstrip()[:1] != b"{":
            if not body:
                raise InputError("The request has no body.", expected="an encoded image or JSON instances")
            return [bytes(body)], True
        body = _decode_json(bytes(body))
    instances = body.get("instances") if isinstance(body, Mapping) else None
    if not isinstance(instances, list) or not instances:
        raise InputError(
            "The request is neither an encoded image nor JSON instances.",
            expected='an image file as the body, or {"instances": [{"b64": "<base64 of an image file>"}]}',
        )
    if len(instances) > max_instances:
        raise InputError(
            "The request has too many instances.",
            found=str(len(instances)),
            expected=f"at most {max_instances}",
            action="split it into several requests",
        )
    return [_decode_instance(number, instance) for number, instance in enumerate(instances)], False


def _decode_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("The request's JSON cannot be read.", found=str(error)) from None


def _decode_instance(number: int, instance: Any) -> bytes:
    try:
        return base64.b64decode(instance["b64"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InputError(
            f"Instance {number} cannot be read.",
            found=f"{type(error).__name__}: {error}",
            expected='{"b64": "<base64 of an image file>"}',
        ) from None
