"""Prototypes in tiles: logits of all rows against a few thousand prototypes at a time, never against all of them.

With 65,536 or 131,072 prototypes the logits of a batch are the largest tensors of a step by far, and fp32 passes over
them cost more than the matrix product. A tile of prototypes stays in the processor's cache while it is normalised,
multiplied and reduced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Prototypes a tile: 4,096 was fastest of 1,024 to 16,384 on a CPU (rows × 4,096 fp32 fit the last-level cache);
# a GPU wants larger matrix products. It depends on nothing else, so that all ranks take the same number of tiles.
_TILE = {"cpu": 4096}
_TILE_ACCELERATOR = 16384


@dataclass(frozen=True)
class Prototypes:
    """A head's last layer, weight-normalised: `gain · direction / ‖direction‖`.

    Args:
        direction: [K, D] `weight_v`.
        gain: [K, 1] `weight_g`.
    """

    direction: Tensor
    gain: Tensor

    @property
    def count(self) -> int:
        """K, the number of prototypes."""
        return self.direction.shape[0]

    def tiles(self) -> Iterator[slice]:
        """Consecutive ranges that cover all prototypes; the same on every rank."""
        return tiles(self.count, self.direction.device)


def scale_of(direction: Tensor, gain: Tensor) -> Tensor:
    """[k, 1] what directions are multiplied by."""
    scale: Tensor = gain.float() / torch.linalg.vector_norm(direction.float(), dim=1, keepdim=True)
    return scale


def normalised(direction: Tensor, gain: Tensor, dtype: torch.dtype) -> Tensor:
    """[k, D] normalised weight of some prototypes."""
    return (direction.float() * scale_of(direction, gain)).to(dtype)


def tiles(count: int, device: torch.device) -> Iterator[slice]:
    """Consecutive ranges of a tile's length that cover `count` columns."""
    size = _TILE.get(device.type, _TILE_ACCELERATOR)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
