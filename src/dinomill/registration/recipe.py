"""What a trained network's folder says of how it was trained: ``recipe.json``, in lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dinomill.handles import RECIPE_NAME, ModelHandle
from dinomill.registration.card_parts import Fact

# What is told by itself; everything else is told part by part.
_FIRST: Final = ("steps", "batch_size", "seed")
_MEMORY: Final = ("keep_mib",)  # settings of which no number depends
_UNKNOWN: Final = "unknown: it was trained before recipes were written beside the weights, or elsewhere"


def recipe_facts(model: ModelHandle) -> tuple[Fact, ...]:
    """The recipe, a line for every part of it; one that says unknown where none is kept."""
    try:
        kept = json.loads((model.folder / RECIPE_NAME).read_text(encoding="utf-8"))
        return tuple(Fact(name, value) for name, value in _lines(kept))
    except (OSError, ValueError, TypeError, AttributeError):
        return (Fact("recipe", _UNKNOWN),)


def _lines(kept: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    recipe = dict(kept.get("recipe") or {})
    yield "objective", str(kept.get("objective", "unknown"))
    if together := kept.get("together"):
        yield "trained together with", ", ".join(map(str, together))
    yield "network", told(kept.get("model") or {})
    yield "in short", told({name: recipe.pop(name) for name in _FIRST if name in recipe})
    step = dict(kept.get("step") or {})
    if kept.get("objective") == "assignments":
        step.pop("head", None)  # the teacher's heads are what is learnt from
    for parts in (recipe, step, {name: kept.get(name) for name in ("teaching", "adaptation")}):
        plain = {name: value for name, value in parts.items() if not isinstance(value, Mapping) and value is not None}
        if plain:
            yield "settings", told(plain)
        for name, value in parts.items():
            if isinstance(value, Mapping) and (text := told(value)):
                yield name.replace("_", " "), text
    if drawn := kept.get("initialisation"):
        yield "initialisation", told(drawn)


def told(values: Mapping[str, Any], prefix: str = "") -> str:
    """Nested settings in one line; what is off is left out."""
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.append(told(value, f"{prefix}{name} "))
        elif value is not None and value is not False and name not in _MEMORY:
            shown = " / ".join(map(_shown, value)) if isinstance(value, list) else _shown(value)
            found.append(f"{prefix}{name.replace('_', ' ')} {shown}")
    return ", ".join(part for part in found if part)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "yes" if value is True else str(value)
