"""Score curation against what was planted into the pool, where that is known: the sample writes it down."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dinomill.handles import DatasetHandle
from dinomill.images.manifest import Fate, read_manifest

_RELEVANT = "relevant"
_DUPLICATES = ("exact_duplicate", "near_duplicate")
_IRRELEVANT = ("digit", "patch")
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
    truth = {row["path"]: row for row in pq.read_table(planted).to_pylist()}
    table = read_manifest(curated.manifest, ["path", "fate"])
    fates: dict[str, str] = dict(zip(table["path"].to_pylist(), table["fate"].to_pylist(), strict=True))
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
        if kind == _RELEVANT:
            right = sum(any(path in kept for path in groups[original]) for original in paths)
            meaning = "the picture, or one copy of it, stays"
        elif kind in _DUPLICATES:
            right = sum(path not in kept or truth[path]["original"] not in kept for path in paths)
            meaning = "not kept beside its original"
        elif kind in _IRRELEVANT:
            right, meaning = sum(path not in kept for path in paths), "left out"
        else:
            right = sum(fates.get(path) == Fate.QUARANTINED.value for path in paths)
            meaning = "quarantined"
        scores.append(Score(kind.replace("_", " "), len(paths), right, meaning))
    return tuple(sorted(scores, key=lambda score: -score.count))


def _precision(truth: dict[str, dict[str, Any]], fates: dict[str, str]) -> tuple[Score, ...]:
    kinds_by_fate: dict[str, Counter[str]] = defaultdict(Counter)
    for path, fate in fates.items():
        kinds_by_fate["duplicate" if fate in _DUPLICATE_FATES else fate][truth[path]["kind"]] += 1
    twins = {row["original"] for row in truth.values() if row["kind"] in _DUPLICATES}
    in_groups = sum(
        path in twins and fate in _DUPLICATE_FATES and truth[path]["kind"] == _RELEVANT for path, fate in fates.items()
    )
    fine = (_RELEVANT, *_DUPLICATES, *_IRRELEVANT)
    rows = [
        ("kept", Fate.KEPT.value, "is relevant", lambda kinds: sum(kinds[k] for k in (_RELEVANT, *_DUPLICATES))),
        (
            "removed as a duplicate",
            "duplicate",
            "has a planted copy",
            lambda kinds: in_groups + sum(kinds[kind] for kind in _DUPLICATES),
        ),
        (
            "left out as irrelevant",
            Fate.IRRELEVANT.value,
            "is irrelevant",
            lambda kinds: sum(kinds[kind] for kind in _IRRELEVANT),
        ),
        (
            "quarantined",
            Fate.QUARANTINED.value,
            "is broken",
            lambda kinds: sum(count for kind, count in kinds.items() if kind not in fine),
        ),
    ]
    return tuple(
        Score(name, kinds_by_fate[fate].total(), right(kinds_by_fate[fate]), meaning)
        for name, fate, meaning, right in rows
        if kinds_by_fate[fate]
    )
