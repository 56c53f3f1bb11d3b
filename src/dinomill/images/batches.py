"""One training batch from a dataset: a pure function of the step, wherever and in whatever order it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dinomill.arrays import Pixels, Rows
from dinomill.errors import InputError
from dinomill.images import render_batched as crops_batched
from dinomill.images import render_opencv as crops_opencv
from dinomill.images.buffers import BufferPool
from dinomill.images.crop_plan import CropPlan, MultiCropConfig, draw_plan
from dinomill.images.fetch import Fetcher, UnreadableError
from dinomill.images.manifest import KeptImages
from dinomill.images.masking import MaskingConfig, Masks, draw_masks
from dinomill.images.mixture import MixedSampler
from dinomill.images.sampler import Sampler
from dinomill.images.shards import ImageSource
from dinomill.images.substitutes import TRIES, Unreadable, substitute


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

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; returns before the copy has ended where memory is pinned."""
        return replace(self, **{name: v.to(device, non_blocking=True) for name, v in self._tensors().items()})

    def pinned(self) -> Batch:
        """The same batch in page-locked memory."""
        values = self._tensors()
        return replace(self, **{name: v.pin_memory() for name, v in values.items() if v.device.type == "cpu"})

    def _tensors(self) -> dict[str, Any]:
        anchor = {} if self.anchor_crops is None else {"anchor_crops": self.anchor_crops}
        return {name: getattr(self, name) for name in TENSORS} | anchor


TENSORS = ("indices", "global_crops", "local_crops", "masks", "mask_indices", "mask_weights")


class Coarse(NamedTuple):
    """The first batches have crops of fewer pixels, of the same boxes."""

    global_size: int
    local_size: int
    until: int  # this batch is the first that has all pixels


class Anchor(NamedTuple):
    """Global crops are wanted a second time, with more pixels: for the anchor of Gram anchoring."""

    size: int  # side of the crops, pixels
    start: int  # from this batch on


@dataclass(frozen=True)
class RawBatch:
    """Decoded images and what is to be done with them, for a device that renders the crops itself."""

    step: int
    rows: npt.NDArray[np.int64]
    images: Any  # [B, H, C, W] uint8, from crops_batched.canvas
    plan: CropPlan
    masks: Masks
    unreadable: tuple[Unreadable, ...]


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
    anchor: Anchor | None = None
    coarse: Coarse | None = None

    def groups(self, step: int) -> tuple[tuple[int, int, int], ...]:
        """First view, last view and side of the crops of each size; those of the anchor come last."""
        large, small = self._sides(step)
        usual = (0, 2, large), (2, self.crops.views, small)
        if self.anchor is None or step < self.anchor.start:
            return usual
        return *usual, (0, 2, self.anchor.size)

    def grid_at(self, step: int) -> int:
        """Patches a side of a global crop of a batch."""
        return self.grid * self._sides(step)[0] // self.crops.global_size

    def _sides(self, step: int) -> tuple[int, int]:
        if self.coarse is not None and step < self.coarse.until:
            return self.coarse.global_size, self.coarse.local_size
        return self.crops.global_size, self.crops.local_size

    @property
    def finest(self) -> MultiCropConfig:
        """The crops with the most pixels that are cut: images are decoded as large as these need them."""
        return self.crops if self.anchor is None else self.crops.model_copy(update={"global_size": self.anchor.size})


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
        self.batched = batched
        self.fetcher = Fetcher(images, source, recipe.finest, recipe.channels, recipe.value_range, cache_bytes)
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
                decoded.append(self.fetcher.decode(row, plan.boxes[:, column]))
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
        return RawBatch(step, rows, decoded, plan, masks, tuple(unreadable))

    def _plan(self, rows: Rows, epochs: Rows) -> CropPlan:
        recipe = self.recipe
        sizes = self.images.sizes[rows]
        return draw_plan(recipe.crops, sizes, rows, epochs, seed=recipe.sampler.seed, channels=recipe.channels)

    def _instead(self, row: int, epoch: int, column: int, plan: CropPlan, error: UnreadableError) -> tuple[Pixels, int]:
        """Pixels and row of the first readable substitute, whose own plan takes the column of the other's."""
        members = self.recipe.sampler.alike(row)
        for attempt in range(TRIES):
            number = substitute(len(members), self.recipe.sampler.seed, epoch, row, attempt)
            instead = int(members[number])
            own = self._plan(np.array([instead]), np.array([epoch]))
            try:
                pixels = self.fetcher.decode(instead, own.boxes[:, 0])
            except UnreadableError:
                continue
            plan.put(column, own)
            return pixels, instead
        raise InputError(
            f"The image {self.fetcher.path(row)} cannot be read from its shard any more, nor can {TRIES} others that "
            "were tried in its place.",
            found=str(error),
            action="look at the disk or store that holds the shards; run `dvc pull`, or the curation stage again",
        )

    def on_canvas(self, step: int) -> RawBatch:
        """As ``raw``, the images stacked for a device."""
        raw = self.raw(step)
        return replace(raw, images=crops_batched.canvas(raw.images))

    def make(self, step: int) -> Batch:
        """A whole batch, rendered on the CPU."""
        raw = self.on_canvas(step) if self.batched else self.raw(step)
        render = self._render_batched if self.batched else self._render_opencv
        return assemble(self.recipe, raw, [torch.from_numpy(render(raw, *group)) for group in self.recipe.groups(step)])

    def _render_batched(self, raw: RawBatch, start: int, stop: int, size: int) -> npt.NDArray[np.float32]:
        crops: npt.NDArray[np.float32] = render_on_device(self.recipe, raw.images, raw.plan, start, stop, size)
        return crops

    def _render_opencv(self, raw: RawBatch, start: int, stop: int, size: int) -> npt.NDArray[np.float32]:
        todo = crops_opencv.operations(raw.plan.views(start, stop), size, self.recipe.crops.blur_kernel)
        out = self._buffers.take((stop - start, len(raw.rows), self.recipe.channels, size, size))
        for column, image in enumerate(raw.images):
            crops_opencv.render_image(image, todo, column, size, out[:, column], self._tables)
        return out


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
    global_crops, local_crops, *anchor = (c.reshape(-1, recipe.channels, *c.shape[-2:]) for c in crops)
    return Batch(
        step=raw.step,
        indices=torch.from_numpy(raw.rows),
        global_crops=global_crops,
        local_crops=local_crops,
        masks=torch.from_numpy(raw.masks.masks),
        mask_indices=torch.from_numpy(raw.masks.indices),
        mask_weights=torch.from_numpy(raw.masks.weights),
        unreadable=raw.unreadable,
        anchor_crops=anchor[0] if anchor else None,
    )
