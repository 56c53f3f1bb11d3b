"""What a forward pass leaves, part by part, each in a file of its own that is whole or absent.

<key>.safetensors               cls [N, D], mean_patch [N, D], fp32
<key>.blocks<L>.safetensors     the same of the last L blocks: [N, L, D]
<key>.grids<L>/00000.npy …      patch features [n, L, h, w, D], fp16
<key>.shown-<rows>.npy          patch features of the last block of some images [M, h, w, D], fp16
<key>.attention-<rows>.npy      see ``attention``
"""

from __future__ import annotations

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinomill.errors import InputError, StorageError
from dinomill.evaluation.split_features import Halves, PatchGrids
from dinomill.features.base import Tokens
from dinomill.storage.atomic import atomic_file, fresh_folder, storage_errors
from dinomill.storage.hashing import hash_json

# Bytes of a shard of patch grids.
_SHARD = 256 * 2**20
# Bytes of grids that a user should know of.
_WORTH_SAYING = 10**9

log = logging.getLogger(__name__)


class Part(ABC):
    """One thing that is kept of a forward pass.

    Args:
        path: Its file or folder.
        blocks: Last blocks that it is made of.
    """

    def __init__(self, path: Path, blocks: int = 1) -> None:
        self.path = path
        self.blocks = blocks

    @abstractmethod
    def add(self, start: int, tokens: Sequence[Tokens]) -> None:
        """Take in a batch: tokens of the last blocks, whose first image is number ``start``."""

    @abstractmethod
    def close(self) -> None:
        """Write what is not written yet, and let the part appear."""


class TokensPart(Part):
    """Class tokens and mean patches of the last blocks."""

    def __init__(self, path: Path, blocks: int = 1) -> None:
        super().__init__(path, blocks)
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, start: int, tokens: Sequence[Tokens]) -> None:
        """Keep both in memory: they are small."""
        del start
        last = tokens[-self.blocks :]
        cls = torch.stack([one.cls.float().cpu() for one in last], dim=1)
        mean_patch = torch.stack([one.mean_patch.float().cpu() for one in last], dim=1)
        self._parts.append((cls, mean_patch) if self.blocks > 1 else (cls[:, 0], mean_patch[:, 0]))

    def close(self) -> None:
        """Write them."""
        cls, mean_patch = (torch.cat(parts).contiguous() for parts in zip(*self._parts, strict=True))
        with atomic_file(self.path) as temporary:
            save_file({"cls": cls, "mean_patch": mean_patch}, temporary)


class GridsPart(Part):
    """Patch grids of every image, in shards.

    Args:
        path: Their folder.
        blocks: Last blocks.
        images: How many there will be: what they take is said, and refused, beforehand.
    """

    def __init__(self, path: Path, blocks: int, images: int) -> None:
        super().__init__(path, blocks)
        self._images = images
        self._folder = path.with_name(f".{path.name}.unfinished")
        self._waiting: list[Halves] = []
        self._shards = 0

    def add(self, start: int, tokens: Sequence[Tokens]) -> None:
        """Write a shard whenever there is enough of one."""
        grids = [_grid(one) for one in tokens[-self.blocks :]]
        if start == 0:
            fresh_folder(self._folder)
            self._require_room(sum(grid[0].nbytes for grid in grids) * self._images)
        self._waiting.append(np.stack(grids, axis=1))
        if sum(array.nbytes for array in self._waiting) >= _SHARD:
            self._write()

    def close(self) -> None:
        """Write the rest; the folder gets its name when all are there."""
        if self._waiting:
            self._write()
        with storage_errors(self.path):
            self._folder.rename(self.path)

    def _require_room(self, needed: int) -> None:
        """Say how much will be written, and stop where it has no room.

        Raises:
            StorageError: With both sizes.
        """
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise StorageError(
                f"There is no room for the patch grids of {self._images:,} images in {self.path.parent}.",
                found=f"{free / 1e9:.1f} GB free",
                expected=f"{needed / 1e9:.1f} GB",
                action="free some space, measure fewer images (`max_bank`, `max_queries`), or keep them elsewhere",
            )
        if needed > _WORTH_SAYING:
            log.info("Patch grids of %s images take %.1f GB in %s.", f"{self._images:,}", needed / 1e9, self.path)

    def _write(self) -> None:
        with storage_errors(self._folder):
            path = self._folder / f"{self._shards:05d}.npy"
            np.save(path, np.concatenate(self._waiting), allow_pickle=False)
        self._shards, self._waiting = self._shards + 1, []


class ShownPart(Part):
    """Patch grids of some images."""

    def __init__(self, path: Path, rows: Sequence[int]) -> None:
        super().__init__(path)
        self._rows = rows
        self._parts: list[Halves] = []

    def add(self, start: int, tokens: Sequence[Tokens]) -> None:
        """Keep those of the batch that are wanted."""
        last = tokens[-1]
        wanted = [row - start for row in self._rows if start <= row < start + len(last.cls)]
        if wanted and last.patches is not None:
            self._parts.append(_grid(Tokens(last.cls, last.mean_patch, last.patches[wanted])))

    def close(self) -> None:
        """Write them; of a network that gives one vector an image, that there are none."""
        maps = np.concatenate(self._parts) if self._parts else np.empty((0, 0, 0, 0), np.float16)
        with atomic_file(self.path) as temporary, temporary.open("wb") as file:
            np.save(file, maps, allow_pickle=False)


def _grid(tokens: Tokens) -> Halves:
    """``[B, N, D]`` to ``[B, h, w, D]`` float16, of square grids."""
    assert tokens.patches is not None, "asked for patches of a network without places"
    count, places, width = tokens.patches.shape
    side = round(places**0.5)
    halves: Halves = tokens.patches.reshape(count, side, side, width).half().cpu().numpy()
    return halves


def tokens_path(folder: Path, key: str, blocks: int = 1) -> Path:
    """Where tokens of the last blocks lie."""
    return folder / (f"{key}.safetensors" if blocks == 1 else f"{key}.blocks{blocks}.safetensors")


def grids_path(folder: Path, key: str, blocks: int) -> Path:
    """Where patch grids of the last blocks lie."""
    return folder / f"{key}.grids{blocks}"


def shown_path(folder: Path, key: str, rows: Sequence[int]) -> Path:
    """Where patch grids of some images lie."""
    return folder / f"{key}.shown-{hash_json(list(rows))[:8]}.npy"


def attention_path(folder: Path, key: str, rows: Sequence[int]) -> Path:
    """Where attention to the patches of some images lies."""
    return folder / f"{key}.attention-{hash_json(list(rows))[:8]}.npy"


def with_at_least(paths: dict[int, Path]) -> Path | None:
    """The first that exists, of paths by number of blocks."""
    return next((path for _, path in sorted(paths.items()) if path.exists()), None)


def read_tokens(path: Path) -> tuple[Tensor, Tensor]:
    """Class tokens and mean patches that were kept.

    Raises:
        InputError: When the file was damaged since.
    """
    try:
        kept = load_file(path)
        return kept["cls"], kept["mean_patch"]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def read_grids(folder: Path) -> PatchGrids:
    """Patch grids that were kept.

    Raises:
        InputError: When a shard was damaged since.
    """
    shards = PatchGrids(tuple(sorted(folder.glob("*.npy"))))
    try:
        len(shards)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from None
    return shards


def read_shown(path: Path) -> Halves:
    """Patch grids of the shown images.

    Raises:
        InputError: When the file was damaged since.
    """
    try:
        halves: Halves = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from None
    return halves


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read: features that an earlier evaluation kept.",
        found=str(error),
        action=f"remove that {'folder' if path.is_dir() else 'file'} and run the same command again: they are "
        "computed anew",
    )
