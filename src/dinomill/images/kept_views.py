"""Views of each image whose features a teacher has seen before: which crops they are, and where the features lie.

<folder>/<name>.npy, <name>.keys.npy     rows kept by image and view (storage/kept_rows.py), float16: of both global
                                         crops the class feature, then those of the places

A view is a pair of global crops. Which crops, is a function of its number and of the image's content: neither the run's
seed nor the image's row counts, so that a dataset that has grown, or another run, finds what was kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Rows
from dinomill.errors import InputError
from dinomill.images.crop_plan import CropPlan, MultiCropConfig, draw_plan
from dinomill.images.manifest import Fate, read_manifest
from dinomill.storage.kept import Keys, as_keys
from dinomill.storage.kept_rows import Damaged, KeptRows

_SEED = 0  # of all views
PAIR = 2  # global crops


@dataclass(frozen=True)
class ViewShape:
    """What is kept of a view: of each of two crops a class feature and those of so many places."""

    places: int
    dim: int

    @property
    def numbers(self) -> int:
        """In a row."""
        return PAIR * (1 + self.places) * self.dim

    @property
    def bytes(self) -> int:
        """Of a row, in float16."""
        return 2 * self.numbers


class KeptViews:
    """The views of a dataset's images.

    Args:
        manifest: Of the dataset.
        folder: Where features are kept; one for each teacher and way of cutting crops.
        views: Pairs of global crops an image.
        shape: Of what is kept of each.
    """

    def __init__(self, manifest: Path, folder: Path, views: int, shape: ViewShape) -> None:
        self.folder, self.views, self.shape = folder, views, shape
        self._hashes = image_hashes(manifest)
        # What is drawn for an image follows from its content.
        self.numbers = np.array([int(one[:16], 16) >> 1 for one in self._hashes], dtype=np.int64)
        self.look_again()

    def look_again(self) -> None:
        """Find what is kept by now."""
        self._rows = KeptRows(self.folder)
        self._table = np.stack([self._rows.find(self.keys(view)) for view in range(self.views)], axis=1)

    def keys(self, view: int, rows: Rows | None = None) -> Keys:
        """Of a view of each image, or of some."""
        wanted = self._hashes if rows is None else [self._hashes[row] for row in rows]
        return as_keys(hashlib.sha256(f"{one}/{view}".encode()).hexdigest() for one in wanted)

    def missing(self) -> list[tuple[int, Rows]]:
        """By view, the images whose features are not kept; those of equal content once."""
        found = []
        _, first = np.unique(self._hashes, return_index=True)
        for view in range(self.views):
            rows = np.sort(first)[self._table[np.sort(first), view] < 0]
            if len(rows):
                found.append((view, rows))
        return found

    def has(self, row: int, epoch: int) -> bool:
        """Whether an image's features are kept in the view that an epoch shows."""
        return bool(self._table[row, epoch % self.views] >= 0)

    def plan(
        self,
        crops: MultiCropConfig,
        sizes: npt.NDArray[np.int64],
        rows: Rows,
        epochs: Rows,
        *,
        seed: int,
        channels: int,
    ) -> CropPlan:
        """As ``draw_plan``, with the global crops of the views that the epochs show; local ones are drawn afresh."""
        kept = draw_plan(crops, sizes, self.numbers[rows], epochs % self.views, seed=_SEED, channels=channels)
        if crops.views == PAIR:
            return kept
        plan = draw_plan(crops, sizes, rows, epochs, seed=seed, channels=channels)
        for name in plan.__dataclass_fields__:
            getattr(plan, name)[:PAIR] = getattr(kept, name)[:PAIR]
        return plan

    def take(self, rows: Rows, epochs: Rows) -> Mapping[str, npt.NDArray[Any]]:
        """A teacher's features of the global crops of images, crop-major as a batch has them.

        Raises:
            InputError: When a file of them was damaged; it is gone then.
        """
        try:
            found = self._rows.take(self._table[rows, epochs % self.views])
        except Damaged as error:
            raise InputError(
                f"A file of the teacher's kept features was damaged: {error}.",
                action="run the stage again: what it held is made again, and the training goes on",
            ) from None
        both = found.reshape(len(rows), PAIR, 1 + self.shape.places, self.shape.dim).swapaxes(0, 1)
        flat = both.reshape(PAIR * len(rows), 1 + self.shape.places, self.shape.dim)
        return {
            "taught_classes": np.ascontiguousarray(flat[:, 0]),
            "taught_patches": np.ascontiguousarray(flat[:, 1:]),
        }

    def mark_used(self) -> None:
        """Say that what belongs to these images is in use."""
        self._rows.tidy(self._table.ravel())


def image_hashes(manifest: Path) -> list[str]:
    """A hash of each kept image of a dataset, in its order: of the file's bytes, and of the part of it that is kept."""
    import pyarrow.compute as pc

    names = ["sha256", "tile_x", "tile_y", "tile_side", "blurred", "stored_width", "stored_height"]
    table = read_manifest(manifest, [*names, "fate", "path"])
    table = table.filter(pc.equal(table["fate"], Fate.KEPT.value))
    rows = zip(*(table[name].to_pylist() for name in ["path", *names]), strict=True)
    # Made-up manifests may lack hashes: there the name is all that tells images apart.
    return [hashlib.sha256(repr((sha256 or path, *rest)).encode()).hexdigest() for path, sha256, *rest in rows]
