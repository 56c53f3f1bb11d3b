"""Weights and networks that are named: whether they can be read, and what they say of themselves.

<work>/checks/weights.json     what pretraining starts from, for as long as the files stay the same
<work>/checks/teacher.json     that the network that distillation learns from could be opened
<work>/checks/embedder.json    that curation's network could be opened; all are kept because reading loads torch
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from dinomill.config import Config
from dinomill.errors import DinomillError
from dinomill.models.config import VisionTransformerConfig
from dinomill.planning.checks.memory import recall, remember
from dinomill.planning.checks.request import Request
from dinomill.storage.typed import expanded, is_there
from dinomill.training.starting import StartingWeights, starting_weights

_VERSION = 2  # to be raised when the same files say something else


class _Kept(Config):
    version: int
    address: str
    files: tuple[tuple[str, int, int], ...]  # path, size, time of change
    model: VisionTransformerConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str


def starting(request: Request) -> StartingWeights | DinomillError | None:
    """What pretraining starts from: None for random weights, or what is wrong with those that it names."""
    config = request.pretraining
    if config is None or config.initial is None:
        return None
    address, remembered = str(config.initial), request.work / "checks" / "weights.json"
    files = _files(address)
    with suppress(ValidationError):
        kept = _Kept.model_validate_json(recall(remembered) or "")
        if files and (kept.version, kept.address, kept.files) == (_VERSION, address, files):
            return StartingWeights(address, address, kept.model, kept.mean, kept.std, kept.sha256)
    try:
        found = starting_weights(address)
        _open(address)
    except DinomillError as error:
        return error
    if files:
        kept = _Kept(
            version=_VERSION,
            address=address,
            files=files,
            model=found.model,
            mean=found.mean,
            std=found.std,
            sha256=found.sha256,
        )
        remember(remembered, kept.model_dump_json() + "\n")
    return found


def given(request: Request) -> dict[str, Any] | DinomillError | None:
    """The shape of the teacher that distillation names: None for the pipeline's own, or what is wrong with it."""
    config = request.distillation
    if config is None or config.own_teacher:
        return None
    from dinomill.distillation.teacher import given_shape
    from dinomill.features.base import EFFICIENTNET

    if str(config.teacher) == EFFICIENTNET and find_spec("efficientnet_lite_pytorch"):
        return {"in_channels": 3}
    address, remembered = str(config.teacher), request.work / "checks" / "teacher.json"
    files = _files(address)
    known = json.dumps([_VERSION, address, files])
    try:
        shape = given_shape(config)
        if not files or recall(remembered) != known:
            _open(address)
    except DinomillError as error:
        return error
    if files:
        remember(remembered, known)
    return shape


def cannot_embed(request: Request) -> DinomillError | None:
    """Why curation's network cannot be opened; None when it can."""
    from dinomill.curation.embedding.embedders import find_network

    assert request.curation is not None
    config, remembered = request.curation.embedding.embedder, request.work / "checks" / "embedder.json"
    known = json.dumps([_VERSION, config.network, _files(config.network)])
    if _files(config.network) and recall(remembered) == known:
        return None
    try:
        find_network(config)
    except DinomillError as error:
        return error
    remember(remembered, known)
    return None


def _open(address: str) -> None:
    """Open a network wholly: headers do not tell of values that are no numbers."""
    from dinomill import features

    features.open(address)


def _files(address: str) -> tuple[tuple[str, int, int], ...]:
    """The files at an address as they are now; none for what is no path: a name may mean other weights tomorrow."""
    path = expanded(address)
    if not is_there(path):
        return ()
    found = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file())
    return tuple((str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in found)
