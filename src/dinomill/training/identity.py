"""Which work folder a run has, and which run of another configuration a changed key leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MISSING = "(not there)"

_SHOWN = 4  # keys in a message; where more differ, it is another experiment and no slip
_NAMED = "named_as_left_behind"  # in a work folder: this was said of it once
# What no key sets back: other images, another teacher, other weights under the same name.
_NO_KEYS = ("dataset_sha256", "teacher_sha256", "teacher_heads_sha256", "initial_sha256")


def differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted keys in which two nested mappings differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            row
            for key in keys
            for row in differences(old.get(key, MISSING), new.get(key, MISSING), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [(prefix, old, new)]


@dataclass(frozen=True)
class LeftBehind:
    """A run of another configuration that was not finished."""

    folder: Path
    step: int
    changed: list[tuple[str, Any, Any]]

    def sentence(self, stage: str) -> str:
        """What is said of it, with the keys as a user writes them."""
        keys = ", ".join(f"{_shown(key, stage)} {old} → {new}" for key, old, new in self.changed)
        return (
            f"run {self.folder.name} stopped at step {self.step:,} of another configuration: {keys}; it stays in "
            f"{self.folder}. Set the keys back to continue it; what runs now begins anew"
        )

    def named(self) -> None:
        """It has been said: once is enough for everybody who left it on purpose."""
        with suppress(OSError):
            (self.folder / _NAMED).touch()


def left_behind(work: Path, identity: Mapping[str, Any], finished: str) -> LeftBehind | None:
    """The unfinished run beside a new one that differs from it least, where it is of use to know.

    It is, where a few keys set back would continue it and nobody was told yet. None when the run is not new, or none is
    there.

    Args:
        work: The run's own work folder, among those of others.
        identity: Of the run.
        finished: Name of the folder that a finished run has in its work folder, up to the first ``-``.
    """
    for one in unfinished(work, identity, finished):
        of_use = len(one.changed) <= _SHOWN and not any(key in _NO_KEYS for key, _, _ in one.changed)
        if of_use and not (one.folder / _NAMED).exists():
            return one
    return None


def unfinished(work: Path, identity: Mapping[str, Any], finished: str) -> list[LeftBehind]:
    """All unfinished runs beside a new one, those first that differ from it least; none where the run is not new.

    Args:
        work: The run's own work folder, among those of others.
        identity: Of the run.
        finished: Name of the folder that a finished run has in its work folder, up to the first ``-``.
    """
    if _newest(work) is not None or any(work.glob(f"{finished}-*")):
        return []
    now = json.loads(json.dumps(identity))
    found = []
    for meta in _siblings(work, finished):
        try:
            row = json.loads(meta.read_text(encoding="utf-8"))
            changed = differences(row["job"], now)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if changed:
            found.append((len(changed), -meta.stat().st_mtime, LeftBehind(meta.parents[2], int(row["step"]), changed)))
    return [one for _, _, one in sorted(found, key=lambda item: item[:2])]


def _siblings(work: Path, finished: str) -> list[Path]:
    """The newest checkpoint's meta.json of each unfinished run beside a work folder."""
    if not work.parent.is_dir():
        return []
    others = [folder for folder in work.parent.iterdir() if folder.is_dir() and folder != work]
    newest = [_newest(folder) for folder in others if not any(folder.glob(f"{finished}-*"))]
    return [meta for meta in newest if meta is not None]


def _newest(work: Path) -> Path | None:
    return max(work.glob("checkpoints/step_*/meta.json"), default=None)


def _shown(key: str, stage: str) -> str:
    """``recipe.optimizer.lr`` as ``pretraining.optimizer.lr``."""
    parts = key.split(".")
    if parts[0] == "recipe":
        parts = parts[1:]
    elif parts[:2] == ["models", "student"]:
        parts = ["model", *parts[2:]]
    elif parts[0] == "models":
        parts = ["students", *parts[1:]]
    return ".".join([stage, *parts])
