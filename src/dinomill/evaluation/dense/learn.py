"""What heads learn from: pixels drawn evenly from the bank's images, with the features that upsampling gives them.

Bilinear upsampling and a linear layer may change places: the upsampled logit of a pixel is the layer's answer to the
upsampled features. Hence the loss of the paper's protocol, a cross-entropy over the pixels of upsampled logits, is an
ordinary regression on rows ``[P, D]``, one a pixel, and its optimum is found without a training loop over images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dinomill.arrays import Rows
from dinomill.evaluation.dense.windows import Layout, sample


@dataclass(frozen=True)
class Pixels:
    """Drawn pixels of a split."""

    features: Tensor  # [P, D]
    targets: Tensor  # [P]
    images: Tensor  # [P] int64: of which image each is


@dataclass(frozen=True)
class Scaling:
    """Channels to mean 0 and variance 1 over the drawn pixels: what batch norm is to the official heads."""

    mean: Tensor  # [D]
    std: Tensor  # [D]

    @classmethod
    def of(cls, features: Tensor) -> Scaling:
        """Measured on rows ``[P, D]``; a channel that never changes is left as it is."""
        std, mean = torch.std_mean(features, dim=0, correction=0)
        return cls(mean, torch.where(std > 1e-6, std, torch.ones_like(std)))

    def rows(self, features: Tensor) -> Tensor:
        """``[P, D]``."""
        return (features - self.mean) / self.std

    def maps(self, maps: Tensor) -> Tensor:
        """``[K, D, h, w]``."""
        return (maps - self.mean[:, None, None]) / self.std[:, None, None]


def draw(
    images: int,
    total: int,
    view: Callable[[int], tuple[Tensor, Layout]],
    target: Callable[[int], np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.int32]]],
    known: Callable[[np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.int32]]], Rows],
    *,
    seed: int,
) -> Pixels:
    """Draw pixels: as many of every image, those without a target left out.

    Args:
        images: How many there are.
        total: Pixels of all images together, at most about.
        view: An image's maps ``[K, D, g, g]`` and windows.
        target: Its mask or depth, ``[H, W]``.
        known: Flat places of a target that may be drawn.
        seed: Of the draw.
    """
    each = max(total // images, 1)
    features, targets, owners = [], [], []
    for index in range(images):
        values = target(index)
        places = known(values)
        random = np.random.default_rng([seed, index])
        # With repeats: as good as without from the many pixels of an image, and an order of magnitude faster.
        drawn = places[random.integers(0, len(places), min(each, len(places)))] if len(places) else places
        y, x = np.divmod(drawn, values.shape[1])
        maps, windows = view(index)
        size = (int(values.shape[0]), int(values.shape[1]))
        features.append(sample(maps, windows.place(y, x, size)))
        targets.append(torch.from_numpy(values.reshape(-1)[drawn]))
        owners.append(torch.full((len(drawn),), index))
    device = features[0].device
    return Pixels(torch.cat(features), torch.cat(targets).to(device), torch.cat(owners).to(device))


def held_out(images: int, share: float, *, seed: int) -> Tensor:
    """A mask ``[N]`` of the images on which a choice is made, at least one and never all of them.

    Whole images: pixels of one image are too alike to check what was learnt from others of it.
    """
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(images, dtype=torch.bool)
    held[order[: min(max(round(images * share), 1), images - 1)]] = True
    return held
