"""Patch grids of whole images by several networks, computed once and kept: half precision, memory-mapped.

<work>/grids/<key>/patches.npy    [W, g, g, D] float16, of the windows of all images, in order
<work>/grids/<key>/cls.npy        [W, D] float16

The key is the hash of the network, its preprocessing and the images' contents. Probes read a few images at a time, so
that a set larger than memory is no matter; its size is said beforehand.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dinomill.arrays import Floats, Rows
from dinomill.errors import InputError, StorageError
from dinomill.evaluation.dense.pixels import pixel_grid
from dinomill.evaluation.dense.windows import Layout, cut, layout
from dinomill.evaluation.networks import Network
from dinomill.execution.progress import Progress, progress
from dinomill.features.base import Tokens
from dinomill.images.labelled import read_image
from dinomill.images.paired import PairedPaths
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.storage.atomic import atomic_folder
from dinomill.storage.hashing import hash_json

log = logging.getLogger(__name__)

Halves = npt.NDArray[np.float16]
# Part of every key: to be raised when the code gives other grids for the same weights and images.
_VERSION = 1
_CPU = torch.device("cpu")
_FILES = ("patches.npy", "cls.npy")
_SAID = 2**30  # bytes from which on a set's size is said


@dataclass(frozen=True)
class Grids:
    """One network's view of a split."""

    patches: Halves  # [W, g, g, D]
    cls: Halves  # [W, D]
    layouts: tuple[Layout, ...]
    first: Rows  # [N + 1]: image n has the windows first[n] to first[n + 1]

    def __len__(self) -> int:
        return len(self.layouts)

    @property
    def dim(self) -> int:
        """Width of a token."""
        return int(self.patches.shape[3])

    def of(self, index: int, device: torch.device | str = "cpu") -> Tensor:
        """The maps of one image, ``[K, D, g, g]`` float32."""
        part = slice(int(self.first[index]), int(self.first[index + 1]))
        found = torch.from_numpy(np.array(self.patches[part])).to(device)
        return found.permute(0, 3, 1, 2).float()

    def with_cls(self, index: int, device: torch.device | str = "cpu") -> Tensor:
        """The same with the class token beside each place, ``[K, 2 D, g, g]``."""
        maps = self.of(index, device)
        part = slice(int(self.first[index]), int(self.first[index + 1]))
        cls = torch.from_numpy(np.array(self.cls[part])).to(device).float()
        return torch.cat([maps, cls[:, :, None, None].expand(-1, -1, *maps.shape[2:])], dim=1)


@dataclass(frozen=True)
class GridSettings:
    """How grids are computed.

    Args:
        work: Where they are kept.
        batch_size: Windows in a forward pass.
        device: Where networks run.
        dtype: Of the networks' products.
        image_size: Shorter side of an image, as near as whole places allow; None: as the network's preprocessing says.
    """

    work: Path
    batch_size: int = 16
    device: torch.device = _CPU
    dtype: torch.dtype = torch.float32
    image_size: int | None = None


def extract_grids(
    images: PairedPaths, networks: Sequence[Network], data_hash: str, name: str, settings: GridSettings
) -> list[Grids]:
    """Grids of every image by every network, from the kept ones where there are any.

    Args:
        images: The files.
        networks: In any order.
        data_hash: Of the images' contents.
        name: Of the split, for people.
        settings: Where and how.

    Raises:
        InputError: When an image cannot be decoded, or a network has no places; it is named.
        StorageError: When the disk has no room for them.
    """
    return [_extract(images, network, data_hash, name, settings) for network in networks]


def _extract(images: PairedPaths, network: Network, data_hash: str, name: str, settings: GridSettings) -> Grids:
    if settings.image_size is not None:
        network = at_size(network, settings.image_size)
    side = network.preprocessing.image_size
    layouts = tuple(layout(size, side, str(path)) for size, path in zip(images.sizes, images.paths, strict=True))
    target = _folder(network, data_hash, settings)
    if not all((target / file).is_file() for file in _FILES):
        what = f"evaluation: patch grids of {name} by {network.name}"
        with atomic_folder(target) as folder, progress(what, sum(map(len, layouts)), "windows") as bar:
            _compute(images, layouts, network, folder, settings, bar)
    return _kept(target, layouts)


def at_size(network: Network, image_size: int) -> Network:
    """The network seeing larger or smaller images: a side near this one, of as many pixels a place as it has now.

    Args:
        network: At the size of its preprocessing.
        image_size: Pixels.
    """
    own = network.preprocessing
    if network.kind == "pixels":
        side = image_size
    else:
        with torch.inference_mode():
            tokens = network.build(torch.device("cpu"))(torch.zeros(1, own.channels, own.image_size, own.image_size))
        place = own.image_size / _as_grid(tokens, network.name).shape[1]
        side = round(max(round(image_size / place), 1) * place)
    return replace(network, preprocessing=own.model_copy(update={"image_size": side, "resize": side}))


def _forward(network: Network, device: torch.device) -> Callable[[Tensor], Tokens]:
    return pixel_grid if network.kind == "pixels" else network.build(device)


def _folder(network: Network, data_hash: str, settings: GridSettings) -> Path:
    rounded = [] if settings.dtype == torch.float32 else [str(settings.dtype)]
    key = hash_json([_VERSION, network.identity, network.preprocessing.model_dump(mode="json"), data_hash, *rounded])
    return settings.work / "grids" / key[:32]


def _first(layouts: Sequence[Layout]) -> Rows:
    return np.cumsum([0, *map(len, layouts)]).astype(np.int64)


def _kept(folder: Path, layouts: tuple[Layout, ...]) -> Grids:
    first = _first(layouts)
    for file in _FILES:
        with suppress(OSError):  # read-only: nothing tidies it then
            (folder / file).touch()  # in use: what nothing used for months is removed
    try:
        patches = np.load(folder / "patches.npy", mmap_mode="r", allow_pickle=False)
        cls = np.load(folder / "cls.npy", allow_pickle=False)
        fits = patches.ndim == 4 and len(patches) == len(cls) == first[-1]
        found = f"arrays of shape {patches.shape} and {cls.shape}"
    except (OSError, ValueError) as error:
        fits, found = False, str(error)
    if not fits:
        raise InputError(
            f"{folder} cannot be read: patch grids that an earlier evaluation kept.",
            found=found,
            action="remove that folder and run the same command again: they are computed anew",
        )
    return Grids(patches, cls, layouts, first)


def _compute(
    images: PairedPaths,
    layouts: Sequence[Layout],
    network: Network,
    folder: Path,
    settings: GridSettings,
    bar: Progress,
) -> None:
    """Write the arrays of one network window by window, so that memory does not grow with the set."""
    forward = _forward(network, settings.device)
    total = sum(map(len, layouts))
    patches: Halves | None = None
    cls: list[Tensor] = []
    done = 0
    with torch.inference_mode():
        for batch in _batches(images, layouts, network.preprocessing, settings.batch_size):
            on_device = torch.from_numpy(batch).to(settings.device, non_blocking=True)
            with torch.autocast(settings.device.type, settings.dtype, enabled=settings.dtype != torch.float32):
                tokens = forward(on_device)
            grid = _as_grid(tokens, network.name)
            if patches is None:
                patches = _open(folder / "patches.npy", (total, *grid.shape[1:]), network.name)
            patches[done : done + len(batch)] = grid
            cls.append(tokens.cls.half().cpu())
            done += len(batch)
            bar.advance(len(batch))
    assert patches is not None
    patches.flush()  # type: ignore[attr-defined]
    np.save(folder / "cls.npy", torch.cat(cls).numpy(), allow_pickle=False)


def _as_grid(tokens: Tokens, name: str) -> Halves:
    """``[B, g, g, D]``.

    Raises:
        InputError: When the network has no square of places, or features that no half-precision number can hold.
    """
    patches = tokens.patches
    side = 0 if patches is None else round(patches.shape[1] ** 0.5)
    if patches is None or side * side != patches.shape[1]:
        raise InputError(
            f"{name} gives no features of places, so that neither masks nor depth can be read from it.",
            found="a class token alone" if patches is None else f"{patches.shape[1]} places, which are no square",
            expected="patch tokens, or a map",
            action="leave segmentation and depth out for it",
        )
    halves: Halves = patches.reshape(len(patches), side, side, -1).half().cpu().numpy()
    if not np.isfinite(halves).all():
        raise InputError(
            f"{name} gives features that are no numbers, or too large for half precision.",
            found="NaN or infinity among its patch tokens",
            action="look at its weights: `dinomill embed` names the images",
        )
    return halves


def _open(path: Path, shape: tuple[int, ...], name: str) -> Halves:
    size = int(np.prod(shape)) * 2
    if size > _SAID:
        log.info("Patch grids of %s: %.1f GB in %s", name, size / 1e9, path.parent.parent)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise StorageError(
            f"Patch grids of {name} do not fit on the disk of {path.parent.parent}.",
            found=f"{free / 1e9:.1f} GB free",
            expected=f"{size / 1e9:.1f} GB",
            action="measure fewer images (max_bank, max_queries), at a smaller image_size, or make room",
        )
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


def _batches(
    images: PairedPaths, layouts: Sequence[Layout], preprocessing: PreprocessingConfig, size: int
) -> Iterator[Floats]:
    """Windows ``[B, C, S, S]`` of all images in order; the next are decoded while the network runs."""

    def read(index: int) -> Floats:
        pixels = read_image(
            images.paths[index],
            channels=preprocessing.channels,
            min_side=preprocessing.image_size,
            value_range=preprocessing.value_range,
        )
        return cut(pixels, layouts[index], preprocessing)

    waiting: list[Floats] = []
    with ThreadPoolExecutor(4) as pool:
        ahead = [pool.submit(read, index) for index in range(min(2 * size, len(images)))]
        for index in range(len(images)):
            waiting.extend(ahead[index].result())
            ahead[index] = None  # type: ignore[call-overload]  # its pixels are not needed any more
            if len(ahead) < len(images):
                ahead.append(pool.submit(read, len(ahead)))
            while len(waiting) >= size:
                yield np.stack(waiting[:size])
                waiting = waiting[size:]
        if waiting:
            yield np.stack(waiting)
