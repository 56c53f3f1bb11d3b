"""Score curation against what was planted into the pool, where that is known: the sample writes it down."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinomill.handles import DatasetHandle
from dinomill.images.manifest import Fate, read_manifest
from dinomill.reporting.tables import read_result

_RELEVANT = "relevant"
_SCENE, _TILE = "scene", "tile of a scene"
_DUPLICATES = ("exact_duplicate", "near_duplicate")
_IRRELEVANT = ("garment", "digit", "drawing", "patch")
_DUPLICATE_FATES = (Fate.EXACT_DUPLICATE.value, Fate.NEAR_DUPLICATE.value)


@dataclass(frozen=True)
class Score:
    """How curation did on one kind of file."""

    kind: str
    count: int
    right: int
    meaning: str  # what counts as right

    @property
    def share(self) -> float:
        """Right ones of all."""
        return self.right / self.count if self.count else 0.0


@dataclass(frozen=True)
class PlantedView:
    """Recall by kind of file, and precision by fate."""

    recall: tuple[Score, ...]
    precision: tuple[Score, ...]


def score_planted(curated: DatasetHandle, planted: Path | None) -> PlantedView | None:
    """Compare every file's fate with its planted kind; None when what was planted is unknown or of another pool."""
    if planted is None or not planted.exists():
        return None
    truth = {row["path"]: row for row in read_result(planted, "dinomill sample").to_pylist()}
    table = read_manifest(curated.manifest, ["path", "fate"])
    fates: dict[str, str] = dict(zip(table["path"].to_pylist(), table["fate"].to_pylist(), strict=True))
    scenes = {path for path, row in truth.items() if row["kind"] == _SCENE}
    for path in fates:
        parent = path.partition("#")[0]  # a tile is named after the picture that it was cut from
        if parent in scenes:
            truth[path] = {"path": path, "kind": _TILE, "original": None}
    for path in scenes:
        del truth[path]
    if not set(fates) <= set(truth):
        return None
    return PlantedView(_recall(truth, fates), _precision(truth, fates))


def _recall(truth: dict[str, dict[str, Any]], fates: dict[str, str]) -> tuple[Score, ...]:
    kept = {path for path, fate in fates.items() if fate == Fate.KEPT.value}
    # A picture and its copies are one thing: which of them stays is curation's choice, that only one does is its task.
    groups: dict[str, list[str]] = defaultdict(list)
    for path, row in truth.items():
        if row["kind"] in (_RELEVANT, *_DUPLICATES):
            groups[row["original"] or path].append(path)
    by_kind: dict[str, list[str]] = defaultdict(list)
    for path, row in truth.items():
        by_kind[row["kind"]].append(path)
    scores = []
    for kind, paths in by_kind.items():
        if kind == _TILE:
            # Of these nobody knows which are empty or repeat another: dark corners do.
            right = sum(fates[path] in (Fate.KEPT.value, Fate.FILTERED.value, *_DUPLICATE_FATES) for path in paths)
            meaning = "kept, or left out as empty or a copy"
        elif kind == _RELEVANT:
            right = sum(any(path in kept for path in groups[original]) for original in paths)
            meaning = "the picture, or one copy of it, stays"
        elif kind in _DUPLICATES:
            right = sum(
                path not in kept or not any(other in kept for other in groups[truth[path]["original"]] if other != path)
                for path in paths
            )
            meaning = "not kept beside its original or another copy"
        elif kind in _IRRELEVANT:
            right, meaning = sum(path not in kept for path in paths), "left out"
        else:
            right = sum(fates.get(path) == Fate.QUARANTINED.value for path in paths)
            meaning = "quarantined"
        scores.append(Score(kind.replace("_", " "), len(paths), right, meaning))
    return tuple(sorted(scores, key=lambda score: -score.count))


def _precision(truth: dict[str, dict[str, Any]], fates: dict[str, str]) -> tuple[Score, ...]:
    copied = {row["original"] for row in truth.values() if row["kind"] in _DUPLICATES}
    scores = []
    for name, decided, meaning in (
        ("kept", (Fate.KEPT.value,), "is relevant"),
        ("removed as a duplicate", _DUPLICATE_FATES, "has a planted copy"),
        ("left out as irrelevant", (Fate.IRRELEVANT.value,), "is irrelevant"),
        ("quarantined", (Fate.QUARANTINED.value,), "is broken"),
    ):
        paths = [path for path, fate in fates.items() if fate in decided]
        if decided == _DUPLICATE_FATES:  # of what a scene repeats, nothing was planted
            paths = [path for path in paths if truth[path]["kind"] != _TILE]
        kinds = Counter(truth[path]["kind"] for path in paths)
        duplicates = sum(kinds[kind] for kind in _DUPLICATES)
        irrelevant = sum(kinds[kind] for kind in _IRRELEVANT)
        right = {
            "is relevant": kinds[_RELEVANT] + kinds[_TILE] + duplicates,
            "has a planted copy": duplicates + sum(path in copied for path in paths),
            "is irrelevant": irrelevant,
            "is broken": kinds.total() - kinds[_RELEVANT] - kinds[_TILE] - duplicates - irrelevant,
        }[meaning]
        if paths:
            scores.append(Score(name, len(paths), right, meaning))
    return tuple(scores)
