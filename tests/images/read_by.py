"""Who reads files of anybody's: `embed`, a handler, curation's scan, preprocessing; each says what became of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from dinomill.errors import InputError
from dinomill.images.decode_error import DecodeError

Read = Callable[[bytes], str]


def _embed(backbone: Path) -> Read:
    from dinomill.serving.predictor import Predictor

    predictor = Predictor(backbone)

    def read(data: bytes) -> str:
        (found,) = predictor.each([data])
        if isinstance(found, DecodeError):
            return found.countable
        assert not isinstance(found, InputError), found
        return "used"

    return read


def _handler(backbone: Path) -> Read:
    from ts.context import Context, RequestProcessor

    from dinomill.serving.torchserve.handler import EmbeddingHandler

    def context() -> Context:
        settings = {"handler": {"threads": 1}, "responseTimeout": 60}
        made = Context("mill", str(backbone), {}, 1, None, "0.12", True, None, settings)
        made.request_processor = [RequestProcessor({})]
        return made

    served = EmbeddingHandler()
    served.initialize(context())

    def read(data: bytes) -> str:
        (answer,) = map(json.loads, served.handle([{"body": data}], context()))
        assert isinstance(answer, dict)
        return "used" if "embedding" in answer else str(answer["error"]).split("(")[1].split(")")[0]

    return read


def _scan(_: Path) -> Read:
    from dinomill.curation.scan.preflight import PreflightConfig, Rejected, look_at

    def read(data: bytes) -> str:
        try:
            look_at(data, PreflightConfig(min_side=1, max_aspect=1e9))
        except Rejected as rejected:
            return rejected.reason
        return "used"

    return read


def _preprocessing(_: Path) -> Read:
    from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes

    def read(data: bytes) -> str:
        preprocess_bytes(data, PreprocessingConfig())
        return "used"

    return read


READERS: dict[str, Callable[[Path], Read]] = {
    "embed": _embed,
    "handler": _handler,
    "scan": _scan,
    "preprocessing": _preprocessing,
}
