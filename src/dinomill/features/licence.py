"""Under which licence some weights are, and what they were made from, where anything says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dinomill.models.kinds import CONVNEXT
from dinomill.models.known import UNKNOWN_LICENCE, Known, named
from dinomill.models.loading import OURS, Weights
from dinomill.models.made_from import MADE_FROM, MadeFrom
from dinomill.models.weights import read_config

# In the configuration of an export, and in what its files carry.
LICENCE, ORIGIN = "licence", "origin"
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)


def licence_of(weights: Weights) -> str | None:
    """Its short name, or None when nothing says it.

    Weights are known by the name of their file or folder, if they have the shape of that name; a model card says it in
    its head; an export of ours in its configuration.
    """
    if weights.family == OURS:
        return licence_told(_told(weights, LICENCE))
    known = recognised_name(weights)
    return known.licence if known is not None else _of_card(weights.paths[0].parent / "README.md")


def licence_told(told: Any) -> str | None:
    """A licence as an export says it; None where it says that nobody knows."""
    return None if told in (None, UNKNOWN_LICENCE) else str(told)


def origin_of(weights: Weights) -> str | None:
    """What weights were made from, or which released ones they are; None when nothing says it."""
    if weights.family == OURS:
        told = _told(weights, ORIGIN)
        return None if told is None else str(told)
    known = recognised_name(weights)
    return None if known is None else f"{known.name}, {known.where}"


def made_from_of(weights: Weights) -> MadeFrom | None:
    """Which weights an export of ours was made from; None where the file does not say it."""
    return MadeFrom.parse(weights.metadata.get(MADE_FROM))


def _told(weights: Weights, key: str) -> Any:
    return read_config(weights.place).get(key) if weights.place.is_dir() else weights.metadata.get(key)


def recognised_name(weights: Weights) -> Known | None:
    """The released weights that these are by name, if they have that shape."""
    known = named(weights.place)
    if known is None or not known.fits(weights.config):
        return None
    # Nothing in timm's names tells Meta's two ConvNeXts apart: there the file's name has the last word.
    return known if weights.family.startswith(known.family) or known.kind == CONVNEXT else None


def _of_card(path: Path) -> str | None:
    if not path.is_file():
        return None
    head = _FRONT.match(path.read_text(encoding="utf-8", errors="replace"))
    if head is None:
        return None
    found = dict(re.findall(r"^(license\w*):[ \t]*(\S.*?)\s*$", head[1], re.MULTILINE))
    return found.get("license_name") or found.get("license")
