"""Labelled images that were trained on: scores on them say little of new ones.

Curation keeps copies of the labelled images out of the dataset by their features (curation/copies). Sets that it was
not told of are looked at here: the same file is refused, or flagged, by its hash; what looks the same is flagged, by a
perceptual hash, which also finds what is only alike where all images are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dinomill.errors import InputError
from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.looks import perceptual_hash, thumbnail
from dinomill.images.manifest import Fate, read_manifest
from dinomill.images.pixels import luminance

log = logging.getLogger(__name__)

Hashes = npt.NDArray[np.uint64]
# Bits of 64 that the hashes of two copies differ by at most.
_NEAR = 2
_NAMED = 5
# Sides in pixels below which a JPEG is not decoded: the thumbnail has 32.
_SIDE = 128


def check_not_trained_on(
    data: EvaluationSet[Any], manifest: Path, when: Literal["refuse", "flag"], *, near: bool
) -> None:
    """Look for queries among the images that training saw.

    Args:
        data: The labelled set.
        manifest: Of the dataset.
        when: What happens when the very file was trained on.
        near: Whether to look for near copies as well; of the set that curation knew, there are none.

    Raises:
        InputError: When files were trained on and ``when`` is ``refuse``; names some.
    """
    import pyarrow.compute as pc

    table = read_manifest(manifest, ["sha256", "phash", "fate"])
    kept = table.filter(pc.equal(table["fate"], Fate.KEPT.value))
    files = set(kept["sha256"].to_pylist())
    same = [path for path, sha256 in zip(data.queries.paths, data.query_files, strict=True) if sha256 in files]
    if same:
        found = f"{len(same):,} of {len(data.queries):,} queries: {_some(data, same)}"
        action = "take them out of the set, or out of the pool and train again"
        if when == "refuse":
            raise InputError(
                f"Images of {data.name} that are to be scored were trained on.",
                found=found,
                expected="images that the networks have never seen",
                action=f"{action}; or set `evaluation.trained_on: flag` to measure all the same",
            )
        log.warning("%s: images that are scored were trained on: %s; %s.", data.name, found, action)
    if not near:
        return
    known = kept["phash"].drop_null().to_numpy().astype(np.uint64)
    others = [path for path in data.queries.paths if path not in set(same)]
    alike = near_copies(looks(others), np.unique(known))
    if alike.any():
        paths = [path for path, hit in zip(others, alike, strict=True) if hit]
        log.warning(
            "%s: %s of %s queries look like images that were trained on (%s). Copies among them raise the scores; "
            "where all images are alike, it may be that alone.",
            data.name,
            f"{len(paths):,}",
            f"{len(data.queries):,}",
            _some(data, paths),
        )


def looks(paths: Sequence[Path]) -> Hashes:
    """The perceptual hash of every image, ``[N]``; 0 for one that cannot be decoded: extraction will name it."""

    def look(path: Path) -> int:
        try:
            return perceptual_hash(thumbnail(luminance(decode_image(path.read_bytes(), min_side=_SIDE))))
        except (DecodeError, OSError):
            return 0

    with ThreadPoolExecutor(4) as pool:
        return np.fromiter(pool.map(look, paths), dtype=np.uint64, count=len(paths))


def near_copies(queries: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Which hashes differ from a known one by two bits at most, ``[Q]``."""
    import faiss

    if not len(queries) or not len(known):
        return np.zeros(len(queries), dtype=np.bool_)
    index = faiss.IndexBinaryFlat(64)
    index.add(known.view(np.uint8).reshape(-1, 8))
    distances, _ = index.search(queries.view(np.uint8).reshape(-1, 8), 1)
    near: npt.NDArray[np.bool_] = (distances[:, 0] <= _NEAR) & (queries != 0)
    return near


def _some(data: EvaluationSet[Any], paths: Sequence[Path]) -> str:
    shown = ", ".join(data.shown(path) for path in paths[:_NAMED])
    return f"{shown} and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else shown
