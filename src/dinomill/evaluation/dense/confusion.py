"""Mean intersection over union, counted pixel by pixel over a whole split (Everingham et al. 2010, as mmseg counts)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dinomill.arrays import Figures, Rows
from dinomill.images.masks import Ids


@dataclass(frozen=True)
class Counts:
    """Pixels of every image by class, those of ignored ids left out."""

    hit: Rows  # [M, C]: of the class, and called so
    called: Rows  # [M, C]
    true: Rows  # [M, C]

    def miou(self, weights: Figures | None = None) -> Figures:
        """The mean over classes of hit / (called or true), ``[R]``; a class that is neither is left out.

        Args:
            weights: ``[R, M]``: how often each image counts; None: every one once.
        """
        return _mean(self.iou(weights))

    def iou(self, weights: Figures | None = None) -> Figures:
        """Of every class ``[R, C]``; NaN where no pixel is of it or called so."""
        weights = np.ones((1, len(self.hit))) if weights is None else weights
        hit, called, true = (weights @ part for part in (self.hit, self.called, self.true))
        either = called + true - hit
        found: Figures = np.divide(hit, either, out=np.full_like(hit, np.nan, dtype=np.float64), where=either > 0)
        return found

    @property
    def accuracy(self) -> float:
        """The share of pixels that are called rightly."""
        return float(self.hit.sum() / max(self.true.sum(), 1))


def count(called: Tensor, true: Tensor, classes: int) -> Rows:
    """Hits, calls and truths of one image, ``[3, C]``.

    Args:
        called: Classes, any shape, int64.
        true: Classes, the same shape; negative ones are left out.
        classes: How many.
    """
    counted = true >= 0
    called, true = called[counted], true[counted]
    parts = [torch.bincount(part, minlength=classes) for part in (true[called == true], called, true)]
    return torch.stack(parts).cpu().numpy()


def gather(each: Sequence[Rows]) -> Counts:
    """The counts of several images."""
    hit, called, true = np.stack(each, axis=1)
    return Counts(hit, called, true)


def known_only(mask: Ids, ignored: Sequence[int]) -> Ids:
    """A mask with -1 for the ids that are ignored."""
    return np.where(np.isin(mask, ignored), np.int32(-1), mask)


def _mean(iou: Figures) -> Figures:
    present = ~np.isnan(iou)
    means: Figures = np.where(present, iou, 0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return means
