"""One training batch from a dataset: a pure function of the step, wherever and in whatever order it is made."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dinomill.arrays import Pixels
from dinomill.errors import InputError
from dinomill.images import render_batched as crops_batched
from dinomill.images import render_opencv as crops_opencv
from dinomill.images.buffers import BufferPool
from dinomill.images.crop_plan import CropPlan, MultiCropConfig, draw_plan
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.manifest import KeptImages
from dinomill.images.masking import MaskingConfig, Masks, draw_masks
from dinomill.images.mixture import MixedSampler
from dinomill.images.sampler import Sampler
from dinomill.images.shards import ImageSource, Location

_STILL_REDUCED = 1.5


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

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; returns before the copy has ended where memory is pinned."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self) if f.name != "step"}
        return replace(self, **moved)

    def pinned(self) -> Batch:
        """The same batch in page-locked memory."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "step"}
        return replace(self, **{name: v.pin_memory() for name, v in values.items() if v.device.type == "cpu"})


@dataclass(frozen=True)
class RawBatch:
    """Decoded images and what is to be done with them, for a device that renders the crops itself."""

    step: int
    rows: npt.NDArray[np.int64]
    images: Any  # [B, H, C, W] uint8, from crops_batched.canvas
    plan: CropPlan
    masks: Masks


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the content of a batch, besides the step."""

    crops: MultiCropConfig
    masking: MaskingConfig
    sampler: Sampler | MixedSampler
    grid: int  # patches a side of a global crop
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float] | None = None  # of files of more than 8 bits

    @property
    def groups(self) -> tuple[tuple[int, int, int], ...]:
        """First view, last view and side of the crops of each size."""
        return (0, 2, self.crops.global_size), (2, self.crops.views, self.crops.local_size)


class BatchMaker:
    """Makes batches by step. Threads may share one; processes get their own copy.

    Args:
        recipe: What is made.
        images: Where the dataset's images lie.
        source: Where their bytes come from.
        batched: Whether a CPU renders with matrix products (``crops_batched``) instead of OpenCV.
        cache_bytes: Decoded images are kept in memory when all of them fit in this.
    """

    def __init__(
        self, recipe: Recipe, images: KeptImages, source: ImageSource, *, batched: bool, cache_bytes: int
    ) -> None:
        self.recipe = recipe
        self.images = images
        self.source = source
        self.batched = batched
        self._buffers = BufferPool()
        self._tables = crops_opencv.normalisation_tables(recipe.mean, recipe.std, recipe.crops.solarise_threshold)
        # Larger images are decoded at the scale that their crops need, so nothing of them can be kept.
        self._whole_side = 2 * recipe.crops.global_size
        fits = int(images.sizes.prod(axis=1).sum()) * recipe.channels <= cache_bytes
        self._cache: dict[int, Pixels] | None = {} if fits else None

    def raw(self, step: int) -> RawBatch:
        """The images of a step, decoded, and their plan."""
        recipe = self.recipe
        epochs, rows = recipe.sampler.at(step)
        sizes = self.images.sizes[rows]
        plan = draw_plan(recipe.crops, sizes, rows, epochs, seed=recipe.sampler.seed, channels=recipe.channels)
        self.source.prepare(
            [self._place(row) for row in rows.tolist() if self._cache is None or row not in self._cache]
        )
        decoded = [self._decode(row, plan, column) for column, row in enumerate(rows.tolist())]
        masks = draw_masks(
            recipe.masking,
            2 * recipe.sampler.batch,
            recipe.grid,
            seed=recipe.sampler.seed,
            step=step,
            rank=recipe.sampler.rank,
        )
        return RawBatch(step, rows, decoded, plan, masks)

    def on_canvas(self, step: int) -> RawBatch:
        """As ``raw``, the images stacked for a device."""
        raw = self.raw(step)
        return replace(raw, images=crops_batched.canvas(raw.images))

    def make(self, step: int) -> Batch:
        """A whole batch, rendered on the CPU."""
        raw = self.on_canvas(step) if self.batched else self.raw(step)
        render = self._render_batched if self.batched else self._render_opencv
        return assemble(self.recipe, raw, [torch.from_numpy(render(raw, *group)) for group in self.recipe.groups])

    def _render_batched(self, raw: RawBatch, start: int, stop: int, size: int) -> npt.NDArray[np.float32]:
        crops: npt.NDArray[np.float32] = render_on_device(self.recipe, raw.images, raw.plan, start, stop, size)
        return crops

    def _render_opencv(self, raw: RawBatch, start: int, stop: int, size: int) -> npt.NDArray[np.float32]:
        todo = crops_opencv.operations(raw.plan.views(start, stop), size, self.recipe.crops.blur_kernel)
        out = self._buffers.take((stop - start, len(raw.rows), self.recipe.channels, size, size))
        for column, image in enumerate(raw.images):
            crops_opencv.render_image(image, todo, column, size, out[:, column], self._tables)
        return out

    def _place(self, row: int) -> Location:
        return Location(*(int(v[row]) for v in (self.images.shards, self.images.offsets, self.images.lengths)))

    def _decode(self, row: int, plan: CropPlan, column: int) -> Pixels:
        """The pixels of an image; the plan's boxes are moved to them when they are smaller than the original."""
        if self._cache is not None and (kept := self._cache.get(row)) is not None:
            return kept
        height, width = (int(v) for v in self.images.sizes[row])
        reduce = min(height, width) > self._whole_side
        factor = _factor_allowed(plan.boxes[:, column], self.recipe.crops) if reduce else 1
        location = self._place(row)
        try:
            pixels = decode_image(
                self.source.read(location),
                channels=self.recipe.channels,
                value_range=self.recipe.value_range,
                min_side=min(height, width) // factor if factor > 1 else None,
            )
        except DecodeError as error:
            raise InputError(
                f"The image {self.images.paths[row]} cannot be read from its shard any more.",
                found=f"{error.reason}: {error.detail}",
                expected=f"{location.length:,} bytes of an image at {location.offset:,} of shard {location.shard}",
                action="run `dvc pull`, or the curation stage again",
            ) from None
        if reduce:
            pixels = _reduce(pixels, factor, max(height, width))
            plan.boxes[:, column] = _moved(plan.boxes[:, column], factor, pixels.shape[:2])
        elif self._cache is not None:
            self._cache[row] = pixels
        return pixels


def render_on_device(recipe: Recipe, images: Any, plan: CropPlan, start: int, stop: int, size: int) -> Any:
    """Crops ``[V, B, C, size, size]`` of some views from stacked images, where those are."""
    return crops_batched.render_batch(
        images,
        plan.views(start, stop),
        size,
        recipe.mean,
        recipe.std,
        kernel=recipe.crops.blur_kernel,
        threshold=recipe.crops.solarise_threshold,
    )


def assemble(recipe: Recipe, raw: RawBatch, crops: list[torch.Tensor]) -> Batch:
    """Put rendered crops, each ``[V, B, C, H, W]``, and masks into a batch."""
    global_crops, local_crops = (c.reshape(-1, recipe.channels, *c.shape[-2:]) for c in crops)
    return Batch(
        step=raw.step,
        indices=torch.from_numpy(raw.rows),
        global_crops=global_crops,
        local_crops=local_crops,
        masks=torch.from_numpy(raw.masks.masks),
        mask_indices=torch.from_numpy(raw.masks.indices),
        mask_weights=torch.from_numpy(raw.masks.weights),
    )


def _factor_allowed(boxes: npt.NDArray[np.int64], crops: MultiCropConfig) -> int:
    """By how much an image may be reduced before its crops ``[V, 4]`` are cut: every one must then still be reduced.

    What JPEG's decoder makes at half size is sharper than an antialiased picture. Measured on 1/f noise, mean distance
    from Pillow's crop of the whole picture: 6.4 of 255 where nothing is left to reduce, 3.2 at 1.35, 2.6 at 1.5.
    """
    reduction = float((boxes[:, 2:].min(axis=1) / np.array(crops.sizes)).min())
    return next(factor for factor in (8, 4, 2, 1) if factor == 1 or reduction >= _STILL_REDUCED * factor)


def _reduce(pixels: Pixels, factor: int, side: int) -> Pixels:
    """Halve an image until it has 1/factor of its size, for formats without scaled decoding.

    Args:
        pixels: As decoded, perhaps smaller already.
        factor: A power of two.
        side: The longer side of the original, pixels.
    """
    import cv2

    while round(side / max(pixels.shape[:2])) < factor:
        height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
        # An odd last line is left out: stretched over it, the means of four would be those of other pixels.
        halved: Any = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        pixels = halved.reshape(height, width, -1)
    return pixels


def _moved(boxes: npt.NDArray[np.int64], factor: int, actual: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Boxes ``[V, 4]`` of the original in the pixels of its reduced copy: they come to lie on its grid."""
    limits = np.array(actual)
    moved: npt.NDArray[np.int64] = np.rint(boxes / factor).astype(np.int64)
    moved[:, 2:] = np.clip(moved[:, 2:], 1, limits)
    moved[:, :2] = np.minimum(moved[:, :2], limits - moved[:, 2:])
    return moved
