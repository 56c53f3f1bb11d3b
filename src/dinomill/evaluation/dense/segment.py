"""A linear layer from places to classes, upsampled to the mask (DINOv2, section 7.4, "linear")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dinomill.arrays import Rows
from dinomill.errors import InputError
from dinomill.evaluation.dense.confusion import Counts, count, gather, known_only
from dinomill.evaluation.dense.grids import Grids
from dinomill.evaluation.dense.learn import Pixels, Scaling, draw, held_out
from dinomill.evaluation.dense.windows import most_likely
from dinomill.evaluation.logistic import fit
from dinomill.evaluation.protocols.config import LinearProbeConfig
from dinomill.images.masks import Ids, read_mask
from dinomill.images.paired import PairedPaths


@dataclass(frozen=True)
class SegmentationHead:
    """Standardisation and a linear layer."""

    scaling: Scaling
    weight: Tensor  # [D, C]
    bias: Tensor  # [C]

    def logits(self, maps: Tensor) -> Tensor:
        """``[K, D, g, g]`` to ``[K, C, g, g]``."""
        found = torch.einsum("kdhw,dc->kchw", self.scaling.maps(maps), self.weight)
        return found + self.bias[:, None, None]


@dataclass(frozen=True)
class Chosen:
    """A head and how its strength of regularisation was found."""

    head: SegmentationHead
    l2: float
    tried: dict[float, float]  # strength: mIoU of pixels of held-out bank images


@dataclass(frozen=True)
class Masks:
    """The masks of a split, read when they are needed.

    Args:
        pairs: The files.
        ignored: Ids that count for nothing.
    """

    pairs: PairedPaths
    ignored: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Ids:
        """One mask ``[H, W]``; -1 where it is ignored."""
        return known_only(read_mask(self.pairs.targets[index]), self.ignored)


def learn_segmentation(
    grids: Grids,
    masks: Masks,
    classes: int,
    config: LinearProbeConfig,
    *,
    pixels: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Chosen:
    """Train the head on a split: the strength is chosen on held-out images of it, then all are used.

    Args:
        grids: Of the bank.
        masks: Of the same images.
        classes: How many ids there are.
        config: Strengths, the held-out share, and limits of the optimiser.
        pixels: Drawn from all images together.
        seed: Of the draw and of the held-out images.
        device: Where it is computed.

    Raises:
        InputError: When no pixel of the masks is of a class.
    """
    drawn = draw(
        len(masks),
        pixels,
        lambda index: (grids.of(index, device), grids.layouts[index]),
        masks.read,
        lambda mask: np.flatnonzero(mask >= 0),
        seed=seed,
    )
    if not len(drawn.targets):
        raise InputError(
            f"The masks of {masks.pairs.targets[0].parent} hold no pixel of a class.",
            found=f"only ignored ids: {', '.join(map(str, masks.ignored))}",
            action="correct `ignored` of the segmentation protocol",
        )
    scaling = Scaling.of(drawn.features)
    rows = Pixels(scaling.rows(drawn.features), drawn.targets.long(), drawn.images)
    held = held_out(len(masks), config.holdout, seed=seed).to(rows.images.device)[rows.images]
    grid = fit(rows.features[~held], rows.targets[~held], classes, config.l2, config)
    tried = {
        l2: float(gather([count(called, rows.targets[held], classes)]).miou()[0])
        for l2, called in zip(config.l2, grid.predict(rows.features[held]), strict=True)
    }
    # Equal scores: the stronger regularisation, which stands first.
    best = max(tried, key=lambda l2: tried[l2])
    final = fit(rows.features, rows.targets, classes, [best], config)
    return Chosen(SegmentationHead(scaling, final.weight[0], final.bias[0]), best, tried)


@torch.inference_mode()
def segment(head: SegmentationHead, grids: Grids, index: int, size: tuple[int, int]) -> Tensor:
    """The class of every pixel of an image, ``[H, W]`` int64 on the head's device.

    Args:
        head: As trained.
        grids: Of the split.
        index: Of the image in it.
        size: Height and width of its mask.
    """
    return most_likely(head.logits(grids.of(index, head.weight.device)), grids.layouts[index], size)


def count_all(head: SegmentationHead, grids: Grids, masks: Masks) -> Counts:
    """Every full-size pixel of a split."""
    each: list[Rows] = []
    classes = head.weight.shape[1]
    for index in range(len(masks)):
        truth = torch.from_numpy(masks.read(index)).to(head.weight.device).long()
        size = (truth.shape[0], truth.shape[1])
        each.append(count(segment(head, grids, index, size), truth, classes))
    return gather(each)
