"""Regression of a teacher's features: cosine and smooth L1, on features that were standardised.

Directions are what features are compared by, hence the cosine; their lengths, and how much each number matters, are
what it does not see. Standardised, every number of a feature has the same weight in both (as in Wei et al. 2022,
"Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via Feature Distillation", and in Heinrich et al.
2025, "RADIOv2.5").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from dinomill.models.hardware import autocast
from dinomill.training.losses.dino import GLOBAL_CROPS


class ClassLosses(NamedTuple):
    """The two terms, already divided by the number of crops: their sum is the mean over all crops."""

    local: Tensor
    globals: Tensor


def feature_losses(predicted: Tensor, wanted: Tensor) -> Tensor:
    """[R] 1 - cosine + smooth L1 of rows [R, D], in fp32 whatever the precision around it."""
    with autocast(predicted.device):
        predicted, wanted = predicted.float(), wanted.float()
        apart = smooth_l1_loss(predicted, wanted, reduction="none").mean(dim=1)
        return 1 - cosine_similarity(predicted, wanted, dim=1) + apart


def class_losses(predicted: Tensor, wanted: Tensor) -> ClassLosses:
    """Each global crop learns what the teacher sees in it, each local one the mean of what it sees in the global ones.

    Args:
        predicted: [(2 + n_local) · B, D], crop-major.
        wanted: [2B, D] the teacher's of the global crops, crop-major.
    """
    batch = len(wanted) // GLOBAL_CROPS
    crops = len(predicted) // batch
    of_globals = feature_losses(predicted[: len(wanted)], wanted).sum() / (batch * crops)
    if crops == GLOBAL_CROPS:
        return ClassLosses(torch.zeros_like(of_globals), of_globals)
    both = wanted.view(GLOBAL_CROPS, batch, -1).mean(dim=0).repeat(crops - GLOBAL_CROPS, 1)
    return ClassLosses(feature_losses(predicted[len(wanted) :], both).sum() / (batch * crops), of_globals)


def patch_loss(predicted: Tensor, wanted: Tensor, weights: Tensor, *, images: int) -> Tensor:
    """Mean over crops of the weighted losses of their patches.

    Args:
        predicted: [M, D].
        wanted: [M, D] the teacher's, on the student's grid.
        weights: [M], which sum to 1 in each crop.
        images: Crops: 2B.
    """
    return (feature_losses(predicted, wanted) * weights).sum() / images
