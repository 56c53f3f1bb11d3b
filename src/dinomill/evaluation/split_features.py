"""Features as protocols get them: of the images of a split, by one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dinomill.evaluation.networks import Network
from dinomill.models.config import Pooling
from dinomill.models.pooling import join

Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class PatchGrids:
    """Patch features of every image, on disk: shards are mapped into memory, and read where they are asked for.

    Args:
        shards: Files ``[n, L, h, w, D]`` float16, in the order of the images; L last blocks, the deepest last.
    """

    shards: tuple[Path, ...]

    @cached_property
    def _arrays(self) -> list[Halves]:
        return [np.load(path, mmap_mode="r", allow_pickle=False) for path in self.shards]

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        return np.cumsum([0, *(len(array) for array in self._arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Blocks, rows, columns, width: ``(L, h, w, D)``."""
        blocks, rows, columns, width = self._arrays[0].shape[1:]
        return blocks, rows, columns, width

    def take(self, images: Sequence[int] | npt.NDArray[np.int64], blocks: int = 1) -> Tensor:
        """Patches of some images, ``[B, h, w, blocks · D]`` float32: last blocks side by side, the deepest last."""
        wanted = np.asarray(images, dtype=np.int64)
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        count = self.shape[0]
        found = [
            self._arrays[shard][row - self._starts[shard], max(count - blocks, 0) :]
            for shard, row in zip(shards.tolist(), wanted.tolist(), strict=True)
        ]
        stacked = torch.from_numpy(np.stack(found)).float()  # [B, L, h, w, D]
        return stacked.permute(0, 2, 3, 1, 4).flatten(3)


@dataclass(frozen=True)
class SplitFeatures:
    """Of every image of a split.

    Args:
        cls: ``[N, D]``; no columns where no protocol asked for embeddings.
        mean_patch: ``[N, D]``; no columns for pixels either.
        pooling: What the embedding is.
        last: Class tokens and mean patches of the last blocks, ``[N, L, D]`` each, the deepest last; None where
            nobody asked for them.
        grids: Patch grids, where a protocol asked for them and the network has places.
        shown: Patch grids of the rows that are shown, ``[M, h, w, D]``.
    """

    cls: Tensor
    mean_patch: Tensor
    pooling: Pooling
    last: tuple[Tensor, Tensor] | None = None
    grids: PatchGrids | None = None
    shown: Halves | None = None

    def __len__(self) -> int:
        return len(self.cls)

    @cached_property
    def embedding(self) -> Tensor:
        """What is measured, ``[N, E]``."""
        return self.pooled(self.pooling)

    def pooled(self, pooling: Pooling) -> Tensor:
        """Another embedding of the same tokens."""
        return join(self.cls, self.mean_patch, pooling)

    def blocks(self, count: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """Class tokens and mean patches ``[N, D]`` of the last blocks, the deepest last; of as many as there are."""
        if count == 1 or self.last is None:
            return ((self.cls, self.mean_patch),)
        cls, mean_patch = (tensor[:, -count:] for tensor in self.last)
        return tuple(zip(cls.unbind(1), mean_patch.unbind(1), strict=True))


@dataclass(frozen=True)
class NetworkFeatures:
    """Of bank, queries and changed queries, by one network."""

    network: Network
    bank: SplitFeatures
    queries: SplitFeatures
    views: Mapping[str, SplitFeatures] = field(default_factory=dict)
