"""Requests of several images, within what a server takes, and their answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dinomill.arrays import Floats
from dinomill.errors import InputError, MachineError

_OVERHEAD = 1024  # bytes of a request beside its images
_A_TEXT = 8


class Batch(NamedTuple):
    """Images of one request: in base64, and what they are called."""

    texts: list[str]
    names: list[str]

    def vectors(self, answer: bytes) -> Floats:
        """The embeddings of an answer, ``[N, D]`` float32.

        Raises:
            MachineError: When it is not one for these images.
        """
        try:
            rows = sorted(read_answer(answer)["data"], key=lambda row: int(row["index"]))
            vectors = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])
            if len(vectors) != len(self.texts):
                raise ValueError(f"{len(vectors)} embeddings of {len(self.texts)} images")
        except (KeyError, TypeError, ValueError) as error:
            raise MachineError(
                "The server's answer is not one to the request.", found=f"{type(error).__name__}: {error}"
            ) from None
        return vectors.astype(np.float32)


def batches(images: Iterable[tuple[str, bytes]], size: int, most: float) -> Iterator[Batch]:
    """Gather images into requests.

    Args:
        images: Names and encoded images.
        size: Images in a request at most.
        most: Bytes of a request at most.

    Raises:
        InputError: When an image alone is too large.
    """
    batch, taken = Batch([], []), _OVERHEAD
    for number, (name, image) in enumerate(images):
        name = name or f"image {number}"
        text = base64.b64encode(image).decode()
        needed = len(text) + _A_TEXT
        if _OVERHEAD + needed > most:
            raise InputError(
                f"{name} is too large for the server.",
                found=f"{len(image) / 2**20:.1f} MB",
                expected=f"at most {(most - _OVERHEAD) * 3 / 4 / 2**20:.1f} MB",
                action="make it smaller, or raise packaging.server.max_request_mb and package again",
            )
        if batch.texts and (len(batch.texts) >= size or taken + needed > most):
            yield batch
            batch, taken = Batch([], []), _OVERHEAD
        batch.texts.append(text)
        batch.names.append(name)
        taken += needed
    if batch.texts:
        yield batch


def render_request(model: str, batch: Batch) -> bytes:
    """The body of the request."""
    body = {"model": model, "input": batch.texts, "encoding_format": "base64"}
    return json.dumps(body, separators=(",", ":")).encode()


def read_answer(answer: bytes) -> Any:
    """JSON, or nothing of the kind."""
    try:
        return json.loads(answer)
    except ValueError:
        return {}
