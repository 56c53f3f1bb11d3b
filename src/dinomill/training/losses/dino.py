"""DINO: the student's class tokens of all crops against the teacher's of the two global crops.

Caron et al., DINO, 2021; with the normalisation of the DINOv2 code: the denominator counts the global pairs and, for
each of the two global crops, every local one: 2 + 2 · n_local (18 for eight local crops).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dinomill.training.centering import Targets
from dinomill.training.losses.cross_entropy import CrossEntropyOptions, projected_cross_entropy
from dinomill.training.losses.prototypes import Prototypes

GLOBAL_CROPS = 2


class DinoLosses(NamedTuple):
    """The two terms, already divided by the common denominator: their sum is the DINO loss."""

    local: Tensor
    globals: Tensor


def dino_losses(
    features: Tensor, prototypes: Prototypes, targets: Targets, *, batch: int, options: CrossEntropyOptions
) -> DinoLosses:
    """Local and global DINO losses of a batch.

    Args:
        features: [(2 + n_local) · B, D] student bottleneck features: first global crop of all images, second global
            crop, then the local crops, each over all images.
        prototypes: The student head's last layer.
        targets: [2B, K] the teacher's assignments of the global crops, crop-major.
        batch: B.
        options: Temperature, precision, memory.
    """
    crops = features.shape[0] // batch
    n_local = crops - GLOBAL_CROPS
    first, second = torch.split(targets.dense(), batch)
    # Each global crop learns from the other one; each local crop from both.
    summed = [second, first, first + second] if n_local else [second, first]
    index = torch.arange(GLOBAL_CROPS * batch, device=features.device)
    both = torch.arange(GLOBAL_CROPS * batch, (GLOBAL_CROPS + 1) * batch, device=features.device).repeat(n_local)
    mass = features.new_ones(features.shape[0], dtype=torch.float32)
    mass[GLOBAL_CROPS * batch :] = GLOBAL_CROPS
    rows = projected_cross_entropy(
        features,
        prototypes,
        Targets.from_dense(torch.cat(summed)),
        mass=mass,
        rows=torch.cat([index, both]),
        options=options,
    )
    rows = rows / (batch * denominator(n_local))
    return DinoLosses(rows[GLOBAL_CROPS * batch :].sum(), rows[: GLOBAL_CROPS * batch].sum())


def denominator(n_local: int) -> int:
    """How many teacher-student pairs an image has."""
    return GLOBAL_CROPS + GLOBAL_CROPS * n_local
