"""The images that the monitor shows to networks: some of the dataset, augmented copies of them, and labelled ones.

Each process decodes and keeps its own share, as bytes: 4,096 images of 224 pixels are 620 MB over all processes, where
fp32 in every one of them was 2.5 GB each. All batches have one shape, so that compiled blocks meet no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dinomill.arrays import Figures, Pixels, Rows
from dinomill.handles import DatasetHandle
from dinomill.images.channels import with_channels
from dinomill.images.crop_plan import MultiCropConfig, draw_plan
from dinomill.images.fetch import UnreadableError, read_pixels
from dinomill.images.labelled import find_labelled, read_image
from dinomill.images.loader import TrainingLoader
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.manifest import KeptImages, read_kept
from dinomill.images.masking import MaskingConfig
from dinomill.images.preprocess import PreprocessingConfig, centre_square
from dinomill.images.sampler import Sampler
from dinomill.images.shards import Location, open_shards
from dinomill.images.substitutes import Tally, Unreadable, first_readable

# The split that evaluation uses as its bank; its queries, the split `test`, are never looked at while training.
_SPLIT = "train"
# Images of a batch at most: enough for a GPU.
_BATCH = 128
# The order of the monitor's images and their augmentation are not those of any step of the training.
_SALT = 0x6865616C7468
_WHO = "the monitor's images"  # in what the log says of those that cannot be read


@dataclass(frozen=True)
class Share:
    """Which images of a set this process holds: blocks of ``batch``, dealt out in turn.

    Args:
        count: Images of the set.
        batch: Images of a batch of a process.
        rank: This process, of ``world``.
        world: Processes.
    """

    count: int
    batch: int
    rank: int = 0
    world: int = 1

    @classmethod
    def of(cls, smallest: int, rank: int, world: int) -> Self:
        """For all sets of a monitor, of which the smallest has so many images: batches of one shape for all."""
        return cls(smallest, min(_BATCH, -(-smallest // world)), rank, world)

    @property
    def batches(self) -> int:
        """Batches of each process: as many in all, or their collectives would not meet."""
        return -(-self.count // (self.batch * self.world))

    def mine(self) -> Rows:
        """``[S · B]`` rows of the set; padded with its first ones."""
        every = np.arange(self.batches * self.world * self.batch).reshape(self.batches, self.world, self.batch)
        rows: Rows = every[:, self.rank].reshape(-1) % self.count
        return rows

    def whole(self, gathered: Tensor) -> Tensor:
        """Results of all processes one after the other, ``[world · S · B, …]``, in the set's order: ``[count, …]``."""
        dealt = gathered.reshape(self.world, self.batches, self.batch, *gathered.shape[1:])
        return dealt.transpose(0, 1).flatten(0, 2)[: self.count]


@dataclass(frozen=True)
class Samples:
    """A set of images, of which this process holds its share.

    Args:
        images: ``[S · B, C, H, W]`` uint8.
        share: Which ones.
        mean: Per channel, in [0, 1].
        std: Per channel, in [0, 1].
        labels: ``[count]`` int64 of the whole set; None where there are none.
    """

    images: Tensor
    share: Share
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: Tensor | None = None

    def batches(self, device: torch.device) -> Iterable[Tensor]:
        """``[B, C, H, W]`` fp32, normalised on the device as ``preprocess`` does."""
        std = torch.tensor(self.std)[:, None, None]
        gain, offset = (1 / (255 * std)).to(device), (-torch.tensor(self.mean)[:, None, None] / std).to(device)
        for part in torch.split(self.images, self.share.batch):
            yield part.to(device).float() * gain + offset


@dataclass(frozen=True)
class Copies:
    """Two augmented copies of each of the first images of a set, and where their patches lie in the plain images.

    Args:
        first: The teacher sees these.
        second: The student sees these.
        places: ``[D, N, 2]`` row and column, in patches of the plain image, of the centre of each patch of ``first``,
            for the first D images; outside of [0, grid) where the plain image does not show it.
    """

    first: Samples
    second: Samples
    places: Figures


def dataset_samples(
    dataset: DatasetHandle,
    preprocessing: PreprocessingConfig,
    count: int,
    *,
    loader: LoaderConfig,
    seed: int,
    dealt: Share,
) -> Samples:
    """Some images of the dataset, the same ones for a seed, whatever the number of processes.

    Args:
        dataset: The curated dataset.
        preprocessing: Size, mean and standard deviation.
        count: How many; fewer when it has fewer.
        loader: Where the shards lie.
        seed: Which ones.
        dealt: How sets are dealt out to processes.

    Raises:
        InputError: When more of them cannot be read than ``loader.max_unreadable`` allows; below, others take their
            places, and each is named in the log.
    """
    kept, reader = read_kept(dataset.manifest), open_shards(dataset, loader)
    share = replace(dealt, count=min(count, len(kept)))
    rows = _order(len(kept), seed, share.count)[share.mine()]
    reader.prepare([_place(kept, row) for row in np.unique(rows)])
    tally = Tally(len(kept), loader.max_unreadable, who=_WHO)

    def decode(row: int) -> Pixels:
        size, values = preprocessing.resize, preprocessing.value_range
        return read_pixels(reader, _place(kept, row), channels=dataset.channels, min_side=size, value_range=values)

    def read(row: int) -> Pixels:
        try:
            return decode(row)
        except UnreadableError as error:
            instead, pixels = first_readable(np.arange(len(kept)), row, str(kept.paths[row]), decode, error, seed=seed)
            tally.add([Unreadable(row, str(kept.paths[row]), str(error), instead, str(kept.paths[instead]))], step=0)
            return pixels

    return Samples(_stack(rows, read, preprocessing), share, preprocessing.mean, preprocessing.std)


def dataset_copies(
    dataset: DatasetHandle,
    preprocessing: PreprocessingConfig,
    count: int,
    crops: MultiCropConfig,
    *,
    dense: int,
    patch_size: int,
    loader: LoaderConfig,
    seed: int,
    dealt: Share,
) -> Copies:
    """Copies of the first images of ``dataset_samples``, augmented as the two global crops of training are.

    Args:
        dataset: The curated dataset.
        preprocessing: Of the plain images.
        count: How many images have copies; fewer when the dataset has fewer.
        crops: The recipe's.
        dense: Of so many the places of patches are worked out.
        patch_size: Pixels.
        loader: How they are read.
        seed: The same as for the plain images.
        dealt: How sets are dealt out to processes.
    """
    kept = read_kept(dataset.manifest)
    share = replace(dealt, count=min(count, len(kept)))
    crops = crops.model_copy(update={"local_crops": 0})
    mean, std = preprocessing.mean, preprocessing.std
    with TrainingLoader(
        dataset,
        crops=crops,
        masking=MaskingConfig(),
        loader=loader,
        patch_size=patch_size,
        batch_size=share.batch,
        seed=seed ^ _SALT,
        rank=share.rank,
        world=share.world,
        steps=share.batches,
        mean=mean,
        std=std,
    ) as batches:
        batches.tally.who = _WHO
        rendered = [batch.global_crops for batch in batches]
    halves = [torch.cat([batch[half] for batch in (part.chunk(2) for part in rendered)]) for half in (0, 1)]
    scale, shift = (torch.tensor(values)[:, None, None] * 255 for values in (std, mean))
    first, second = ((half * scale + shift).round().clamp(0, 255).to(torch.uint8) for half in halves)
    rows = _order(len(kept), seed, share.count)[: min(dense, share.batch)]
    plan = draw_plan(crops, kept.sizes[rows], rows, np.zeros_like(rows), seed=seed ^ _SALT, channels=len(mean))
    places = patch_places(
        plan.boxes[0], plan.flip[0], kept.sizes[rows], preprocessing, crops.global_size // patch_size, patch_size
    )
    return Copies(Samples(first, share, mean, std), Samples(second, share, mean, std), places)


def labelled_samples(
    folder: Path, preprocessing: PreprocessingConfig, count: int, *, seed: int, dealt: Share
) -> Samples:
    """Some labelled images in random order.

    Args:
        folder: ``<split>/<class>/<image>``; the split ``train`` is read.
        preprocessing: Size, channels, mean and standard deviation.
        count: At most this many, evenly from all classes.
        seed: Their order.
        dealt: How sets are dealt out to processes.

    Raises:
        InputError: When the folder is not so laid out, or an image cannot be read.
    """
    found = find_labelled(folder, _SPLIT, limit=count)
    order = np.random.default_rng(seed).permutation(len(found))
    share = replace(dealt, count=len(order))

    def read(row: int) -> Pixels:
        return read_image(
            found.paths[row],
            channels=preprocessing.channels,
            min_side=preprocessing.resize,
            value_range=preprocessing.value_range,
        )

    images = _stack(order[share.mine()], read, preprocessing)
    labels = torch.from_numpy(found.labels[order])
    return Samples(images, share, preprocessing.mean, preprocessing.std, labels)


def patch_places(
    boxes: Rows, flip: np.ndarray, sizes: Rows, preprocessing: PreprocessingConfig, grid: int, patch_size: int
) -> Figures:
    """Where the patches of crops lie in the plain images.

    Args:
        boxes: ``[B, 4]`` top, left, height, width of the crops, in pixels of the originals.
        flip: ``[B]`` whether they are mirrored.
        sizes: ``[B, 2]`` heights and widths of the originals, pixels.
        preprocessing: Of the plain images.
        grid: Patches a side of a crop.
        patch_size: Pixels.

    Returns:
        ``[B, grid², 2]`` row and column of the centres, in patches: 0.5 is the middle of the first one.
    """
    middle = (np.arange(grid) + 0.5) / grid
    down = boxes[:, None, 0] + middle * boxes[:, None, 2]
    across = boxes[:, None, 1] + np.where(flip[:, None], middle[::-1], middle) * boxes[:, None, 3]
    resized = sizes * preprocessing.resize / sizes.min(axis=1, keepdims=True)
    offset = (resized - preprocessing.image_size) / 2
    places = (
        (original * (resized / sizes)[:, axis, None] - offset[:, axis, None]) / patch_size
        for axis, original in enumerate((down, across))
    )
    rows, columns = places
    return np.stack(np.broadcast_arrays(rows[:, :, None], columns[:, None, :]), axis=-1).reshape(len(boxes), -1, 2)


def _order(images: int, seed: int, count: int) -> Rows:
    """The rows of the dataset that the monitor looks at: what a loader with this seed takes first."""
    _, rows = Sampler(images, count, seed ^ _SALT).at(0)
    return rows


def _place(kept: KeptImages, row: int) -> Location:
    return Location(*(int(v[row]) for v in (kept.shards, kept.offsets, kept.lengths)))


def _stack(rows: Rows, read: Callable[[int], Pixels], preprocessing: PreprocessingConfig) -> Tensor:
    """``[N, C, S, S]`` uint8: squares as ``preprocess`` cuts them, before it normalises them."""
    squares = np.empty((len(rows), preprocessing.channels, *[preprocessing.image_size] * 2), dtype=np.uint8)
    for square, row in zip(squares, rows.tolist(), strict=True):
        pixels = with_channels(read(row), preprocessing.channels, preprocessing.value_range)
        square[:] = centre_square(pixels, preprocessing.resize, preprocessing.image_size).transpose(2, 0, 1)
    return torch.from_numpy(squares)
