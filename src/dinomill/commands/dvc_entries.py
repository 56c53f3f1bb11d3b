"""The entries of a catalog as DVC has to know them, without the classes that Kedro would import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinomill.datasets import HandleDataset, SourceDataset


@dataclass(frozen=True)
class HandleEntry:
    """A catalog entry that is a stage's handle: where it lies, without the class that Kedro would import."""

    folder: Path
    metadata: dict[str, Any]


def entry_of(entry: Mapping[str, Any]) -> HandleEntry | SourceDataset | None:
    """What DVC has to know of a catalog entry; None for one of another type."""
    kind = str(entry.get("type", "")).rpartition(".")[2]
    if kind == HandleDataset.__name__:
        return HandleEntry(Path(entry["folder"]), entry.get("metadata") or {})
    if kind == SourceDataset.__name__:
        return SourceDataset(entry["name"], entry.get("locations"))
    return None


def dvc_metadata(dataset: HandleEntry | SourceDataset) -> dict[str, Any]:
    """What a catalog entry says to DVC: ``metadata: {dvc: {deps, metrics, plots, always_changed}}``."""
    return dict(dataset.metadata.get("dvc", {})) if isinstance(dataset, HandleEntry) else {}
