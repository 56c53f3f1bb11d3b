"""What training asks of a backbone, whatever it is made of; the loop, losses and checkpoints know no more of it.

A vision transformer passes all crops through its layers as one packed matrix (``VisionTransformer.forward_packed``); a
convolutional network passes each size of crops by itself, with the pooled map as class feature and the map's places as
patches. Both give ``CropFeatures`` for each size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dinomill.models.config import Pooling


class CropFeatures(NamedTuple):
    """Features of a batch of crops of one size, after the final norm."""

    cls: Tensor  # [B, D]
    patches: Tensor  # [B, N, D], N = rows * columns of the grid; or [M, D], those that were asked for
    grid: tuple[int, int]  # rows and columns of places that the crops have


@runtime_checkable
class StudentBackbone(Protocol):
    """A backbone that can be trained: an ``nn.Module`` with these besides.

    Names of its parameters: what belongs to the layer that sees pixels has ``patch_embed`` in its name (it has a rate
    of its own), norms have ``norm``, LayerScale gains ``gamma`` (neither is decayed).
    """

    @property
    def embed_dim(self) -> int:
        """Width D of class and patch features."""

    @property
    def patch_size(self) -> int:
        """Pixels from a place of the grid to the next: sides of crops are multiples of it."""

    @property
    def pooling(self) -> Pooling:
        """What its embedding is."""

    @property
    def n_blocks(self) -> int:
        """How many units it has, which is what layerwise rates and recomputation count."""

    def units(self) -> Sequence[nn.Module]:
        """Its blocks in order: what is sharded, compiled and recomputed by itself; each holds several layers.

        A unit's parameters are read inside its ``forward`` only.
        """

    def layer_of(self, parameter: str) -> int:
        """Of a parameter by its plain name: 0 before the first unit, i + 1 in unit i, ``n_blocks + 1`` after all."""

    def untrained(self, *, masks: bool, local_crops: bool) -> Iterable[nn.Parameter]:
        """Parameters that never get a gradient in a run without masks, or without local crops."""

    def features(
        self,
        crops: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        patch_indices: Sequence[Tensor | None] | None = None,
        drop_path: float = 0.0,
        generator: torch.Generator | None = None,
        recomputed: float = 0.0,
    ) -> list[CropFeatures]:
        """Features of crops of several sizes.

        Args:
            crops: A batch ``[B_i, C, H_i, W_i]`` for each size: the global crops, then the local ones.
            masks: ``[B_i, N_i]`` bool or None, for each size: patches that are hidden. Only pretraining has any.
            patch_indices: When only some patches are wanted: for each size an int64 ``[M_i]`` into the flattened
                ``[B_i * N_i]``, or None for no patches at all (``patches`` is then ``[0, D]``).
            drop_path: Stochastic depth: the share of images that skip a branch.
            generator: A CPU generator of whatever is random; the default one if None.
            recomputed: Share of the units, the first ones, whose activations are computed again instead of kept.
        """
