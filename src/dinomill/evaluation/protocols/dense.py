"""What segmentation and depth have in common: a set of pairs, and the patch grids of whole images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dinomill.errors import InputError
from dinomill.evaluation.dense.grids import Grids, GridSettings, extract_grids
from dinomill.evaluation.features import compute_dtype
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.images.paired import PairedPaths
from dinomill.storage.hashing import hash_json

if TYPE_CHECKING:
    from dinomill.evaluation.split_features import NetworkFeatures


def grids_of(
    features: NetworkFeatures, data: EvaluationSet[PairedPaths], settings: Settings, image_size: int | None
) -> tuple[Grids, Grids]:
    """Patch grids of bank and queries, of whole images."""
    how = GridSettings(
        settings.work,
        max(settings.batch_size // 4, 1),  # grids are seen at larger sizes than embeddings
        settings.device,
        compute_dtype(settings.precision),
        image_size,
    )
    bank, queries = (
        extract_grids(split, [features.network], hash_json(files), f"{data.name}, {name}", how)[0]
        for split, files, name in (
            (data.bank, data.bank_files, "bank"),
            (data.queries, data.query_files, "queries"),
        )
    )
    return bank, queries


def shown_rows(count: int, shown: int) -> list[int]:
    """Queries that are drawn, evenly from all."""
    return np.linspace(0, count - 1, min(shown, count)).round().astype(int).tolist()  # type: ignore[no-any-return]


def require_two(data: EvaluationSet[Any]) -> None:
    """Refuse a bank of which nothing can be held out.

    Raises:
        InputError: With the folder.
    """
    if len(data.bank) < 2:
        raise InputError(
            f"The bank of {data.name} is too little to learn from.",
            found=f"{len(data.bank)} image in {data.bank.paths[0].parent}",
            expected="at least two: what a head is chosen by is held out of what it learns from",
            action="put more images there, with their masks or depth",
        )
