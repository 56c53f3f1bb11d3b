"""One training batch from a dataset: a pure function of the step, wherever and in whatever order it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dinomill.arrays import Bytes, Pixels, Rows
from dinomill.images import render_opencv as crops_opencv
from dinomill.images.batch_recipe import BatchRecipe
from dinomill.images.buffers import BufferPool
from dinomill.images.canvases import Canvas
from dinomill.images.channels import with_channels
from dinomill.images.crop_plan import CropPlan, draw_plan
from dinomill.images.fetch import Fetcher, UnreadableError
from dinomill.images.manifest import KeptImages
from dinomill.images.masking import Masks, draw_masks
from dinomill.images.mixture import MixedSampler
from dinomill.images.packing import Blank, Layout, Writes
from dinomill.images.render_batched import Outline, prepare, render
from dinomill.images.sampler import Sampler
from dinomill.images.shards import ImageSource
from dinomill.images.substitutes import Unreadable, first_readable


@dataclass(frozen=True)
class Batch:
    """What a training step takes. Crops are crop-major: the first crop of all images, then the second."""

    step: int
    indices: torch.Tensor  # [B] int64, rows of the dataset
    global_crops: torch.Tensor  # [2B, C, H, W] float32
    local_crops: torch.Tensor  # [nB, C, h, w] float32
    masks: torch.Tensor  # [2B, N] bool
    mask_indices: torch.Tensor  # [M] int64 into the flattened [2B·N]
    mask_weights: torch.Tensor  # [M] float32
    unreadable: tuple[Unreadable, ...] = ()  # images that others took the places of
    anchor_crops: torch.Tensor | None = None  # [2B, C, A, A] float32: the global crops with more pixels, if asked for
    taught_classes: torch.Tensor | None = None  # [2B, D] float16: a teacher's class features of the global crops, kept
    taught_patches: torch.Tensor | None = None  # [2B, N, D] float16: its patches

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        there: dict[str, Any] = {name: value.to(device) for name, value in self.tensors().items()}
        return replace(self, **there)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name; those that this batch has."""
        optional = {name: getattr(self, name) for name in OPTIONAL}
        there = {name: value for name, value in optional.items() if value is not None}
        return {name: getattr(self, name) for name in TENSORS} | there


_CROPS = "crops."  # and the number of their group: names of rendered crops in one piece of memory

TAUGHT = ("taught_classes", "taught_patches")
OPTIONAL = ("anchor_crops", *TAUGHT)
TENSORS = ("indices", "global_crops", "local_crops", "masks", "mask_indices", "mask_weights")


@dataclass(frozen=True)
class RawBatch:
    """Decoded images and what is to be done with them."""

    step: int
    rows: Rows
    images: list[Pixels]
    plan: CropPlan
    masks: Masks
    unreadable: tuple[Unreadable, ...]
    taught: Mapping[str, npt.NDArray[Any]]

    def numbers(self) -> dict[str, npt.NDArray[Any]]:
        """What of a batch is no crop."""
        return {
            "indices": self.rows,
            "masks": self.masks.masks,
            "mask_indices": self.masks.indices,
            "mask_weights": self.masks.weights,
            **self.taught,
        }


@dataclass(frozen=True)
class PackedBatch:
    """Where what lies in one piece of memory: a batch, or the images that a device makes it from."""

    step: int
    layout: Layout
    outline: Outline | None  # None: the crops are there
    unreadable: tuple[Unreadable, ...]


class BatchMaker:
    """Makes batches by step. Threads may share one; processes get their own copy.

    Args:
        recipe: What is made.
        images: Where the dataset's images lie.
        source: Where their bytes come from.
        batched: Whether a CPU renders with matrix products (``render_batched``) instead of OpenCV.
        cache_bytes: Decoded images are kept in memory when all of them fit in this.
    """

    def __init__(
        self, recipe: BatchRecipe, images: KeptImages, source: ImageSource, *, batched: bool, cache_bytes: int
    ) -> None:
        self.recipe = recipe
        self.images = images
        self.batched = batched
        stored = recipe.stored or recipe.channels
        self.fetcher = Fetcher(images, source, recipe.finest, stored, recipe.value_range, cache_bytes)
        self._buffers = BufferPool()
        self._tables = crops_opencv.normalisation_tables(recipe.mean, recipe.std, recipe.crops.solarise_threshold)

    def raw(self, step: int) -> RawBatch:
        """The images of a step, decoded, and their plan."""
        recipe = self.recipe
        epochs, rows = recipe.sampler.at(step)
        plan = self._plan(rows, epochs)
        self.fetcher.prepare(rows.tolist())
        decoded, unreadable = [], []
        for column, (row, epoch) in enumerate(zip(rows.tolist(), epochs.tolist(), strict=True)):
            try:
                self._require_features(row, epoch)
                decoded.append(self._decode(row, plan.boxes[:, column]))
            except UnreadableError as error:
                pixels, instead = self._instead(row, epoch, column, plan, error)
                decoded.append(pixels)
                rows[column] = instead
                unreadable.append(
                    Unreadable(row, self.fetcher.path(row), str(error), instead, self.fetcher.path(instead))
                )
        masks = draw_masks(
            recipe.masking,
            2 * recipe.sampler.batch,
            recipe.grid_at(step),
            seed=recipe.sampler.seed,
            step=step,
            rank=recipe.sampler.rank,
        )
        taught = recipe.views.take(rows, epochs) if recipe.views is not None and self._teaches else {}
        return RawBatch(step, rows, decoded, plan, masks, tuple(unreadable), taught)

    def _decode(self, row: int, boxes: Rows) -> Pixels:
        """An image with the channels that the networks take; boxes are moved in place, as ``Fetcher.decode`` does."""
        return with_channels(self.fetcher.decode(row, boxes), self.recipe.channels)

    @property
    def _teaches(self) -> bool:
        """Whether a teacher's features come with the crops; not while they are made."""
        return self.recipe.views is not None and isinstance(self.recipe.sampler, Sampler | MixedSampler)

    def _require_features(self, row: int, epoch: int) -> None:
        views = self.recipe.views
        if views is not None and self._teaches and not views.has(row, epoch):
            raise UnreadableError("it could not be read when the teacher's features were made")

    def _plan(self, rows: Rows, epochs: Rows) -> CropPlan:
        recipe = self.recipe
        sizes = self.images.sizes[rows]
        if recipe.views is not None:
            how = {"seed": recipe.sampler.seed, "channels": recipe.channels}
            return recipe.views.plan(recipe.crops, sizes, rows, epochs, **how)
        return draw_plan(recipe.crops, sizes, rows, epochs, seed=recipe.sampler.seed, channels=recipe.channels)

    def _instead(self, row: int, epoch: int, column: int, plan: CropPlan, error: UnreadableError) -> tuple[Pixels, int]:
        """Pixels and row of the first readable substitute, whose own plan takes the column of the other's."""

        def read(instead: int) -> tuple[Pixels, CropPlan]:
            self._require_features(instead, epoch)
            own = self._plan(np.array([instead]), np.array([epoch]))
            return self._decode(instead, own.boxes[:, 0]), own

        sampler = self.recipe.sampler
        instead, (pixels, own) = first_readable(
            sampler.alike(row), row, self.fetcher.path(row), read, error, seed=sampler.seed, epoch=epoch
        )
        plan.put(column, own)
        return pixels, instead

    def make(self, step: int) -> Batch:
        """A whole batch, rendered on the CPU."""
        raw = self.raw(step)
        if self.batched:
            outline, arrays = self._prepared(raw, for_device=False)
            made = render({name: a.array() if isinstance(a, Canvas) else a for name, a in arrays.items()}, outline)
        else:
            made = [self._buffers.take(shape) for shape in self._shapes(step)]
            self._render_opencv(raw, made)
        tensors = {name: torch.from_numpy(array) for name, array in raw.numbers().items()}
        return assemble(step, [torch.from_numpy(crops) for crops in made], tensors, raw.unreadable)

    def packed(self, step: int, allocate: Callable[[int], Bytes], *, rendered: bool) -> PackedBatch:
        """A batch in one piece of memory.

        Args:
            step: Of the run.
            allocate: Gives memory of a number of bytes, uint8.
            rendered: The crops, made here; else the images and numbers from which a device makes them.
        """
        raw = self.raw(step)
        arrays: dict[str, npt.NDArray[Any] | Writes] = {**raw.numbers()}
        outline = None
        if rendered:
            crops = {f"{_CROPS}{g}": Blank(shape, np.dtype(np.float32)) for g, shape in enumerate(self._shapes(step))}
            arrays |= crops
        else:
            outline, prepared = self._prepared(raw)
            arrays |= prepared
        layout = Layout.of(arrays)
        there = layout.pack(arrays, allocate(layout.size))
        if rendered:
            self._render(raw, [there[name] for name in crops])
        return PackedBatch(step, layout, outline, raw.unreadable)

    def _prepared(
        self, raw: RawBatch, *, for_device: bool = True
    ) -> tuple[Outline, dict[str, npt.NDArray[Any] | Canvas]]:
        recipe = self.recipe
        return prepare(
            raw.images,
            raw.plan,
            recipe.groups(raw.step),
            recipe.mean,
            recipe.std,
            kernel=recipe.crops.blur_kernel,
            threshold=recipe.crops.solarise_threshold,
            for_device=for_device,
        )

    def _shapes(self, step: int) -> list[tuple[int, ...]]:
        """Of the crops of each group, ``[V, B, C, size, size]``."""
        batch, channels = self.recipe.sampler.batch, self.recipe.channels
        return [(stop - start, batch, channels, size, size) for start, stop, size in self.recipe.groups(step)]

    def _render(self, raw: RawBatch, out: list[npt.NDArray[np.float32]]) -> None:
        if not self.batched:
            self._render_opencv(raw, out)
            return
        outline, arrays = self._prepared(raw, for_device=False)
        whole = {name: a.array() if isinstance(a, Canvas) else a for name, a in arrays.items()}
        for place, crops in zip(out, render(whole, outline), strict=True):
            place[...] = crops

    def _render_opencv(self, raw: RawBatch, out: list[npt.NDArray[np.float32]]) -> None:
        for (start, stop, size), crops in zip(self.recipe.groups(raw.step), out, strict=True):
            todo = crops_opencv.operations(raw.plan.views(start, stop), size, self.recipe.crops.blur_kernel)
            for column, image in enumerate(raw.images):
                crops_opencv.render_image(image, todo, column, size, crops[:, column], self._tables)


def unpack(packed: PackedBatch, memory: torch.Tensor) -> Batch:
    """The batch in a piece of memory, on its device; crops are made there where they are not."""
    arrays = packed.layout.unpack(memory)
    crops = (
        render(arrays, packed.outline)
        if packed.outline
        else [arrays[name] for name in arrays if name.startswith(_CROPS)]
    )
    return assemble(packed.step, crops, arrays, packed.unreadable)


def assemble(
    step: int, crops: list[torch.Tensor], arrays: Mapping[str, torch.Tensor], unreadable: tuple[Unreadable, ...]
) -> Batch:
    """Put rendered crops, each ``[V, B, C, H, W]``, and the other tensors into a batch."""
    global_crops, local_crops, *anchor = (c.reshape(-1, *c.shape[2:]) for c in crops)
    return Batch(
        step=step,
        indices=arrays["indices"],
        global_crops=global_crops,
        local_crops=local_crops,
        masks=arrays["masks"],
        mask_indices=arrays["mask_indices"],
        mask_weights=arrays["mask_weights"],
        unreadable=unreadable,
        anchor_crops=anchor[0] if anchor else None,
        **{name: arrays[name] for name in TAUGHT if name in arrays},
    )
