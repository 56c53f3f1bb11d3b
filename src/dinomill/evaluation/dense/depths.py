"""Linear layers from places to depth (DINOv2, section 7.4, "lin. 1"): bins and a plain regression.

The class token stands beside every place. **Bins**: 256 depths at equal steps; the layer's answers, cut off below and
lifted by 0.1, are divided by their sum (the linear normalisation of AdaBins, Bhat et al. 2021), and the depth is the
mean of the bins under these shares. It is trained by the scale-invariant loss of the logarithm, as the official code
has it (without its term of gradients, which needs whole images). **Plain**: ridge regression in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dinomill.arrays import Figures, Floats
from dinomill.evaluation.dense.grids import Grids
from dinomill.evaluation.dense.learn import Pixels, Scaling, draw, held_out
from dinomill.evaluation.dense.windows import full_size
from dinomill.images.depth import read_depth
from dinomill.images.paired import PairedPaths

_LIFT = 0.1  # added to each bin's answer, so that none is impossible
_UPSAMPLED = 4  # places are upsampled so many times before the layer
_LOG_OFFSET = 1e-3
_MEAN_SHARE = 0.15  # of the squared mean in the scale-invariant loss: 1 - λ, λ = 0.85
_WARM_UP = 0.05  # of the steps: only the mean counts


class DepthErrors(NamedTuple):
    """Of every image, over its pixels with a depth."""

    rmse: Figures  # [M]
    abs_rel: Figures  # [M]: mean |error| / depth
    delta1: Figures  # [M]: share within a factor of 1.25


class DepthHead(Protocol):
    """From places to depth."""

    @property
    def scaling(self) -> Scaling:
        """Of places and class token."""

    def depth(self, features: Tensor) -> Tensor:
        """``[…, D]`` standardised to ``[…]``."""


@dataclass(frozen=True)
class Range:
    """Depths that count, and that are predicted."""

    least: float
    most: float


@dataclass(frozen=True)
class BinsHead:
    """A classification of depths."""

    scaling: Scaling
    weight: Tensor  # [D, B]
    bias: Tensor  # [B]
    centres: Tensor  # [B]

    def depth(self, features: Tensor) -> Tensor:
        """The mean of the bins."""
        shares = torch.relu(features @ self.weight + self.bias) + _LIFT
        return (shares @ self.centres) / shares.sum(dim=-1)


@dataclass(frozen=True)
class RidgeHead:
    """A regression."""

    scaling: Scaling
    weight: Tensor  # [D]
    bias: Tensor  # []

    def depth(self, features: Tensor) -> Tensor:
        """The depth itself."""
        return features @ self.weight + self.bias


@dataclass(frozen=True)
class Training:
    """How bins are trained: AdamW, the rate falling by a cosine."""

    rates: Sequence[float]
    steps: int
    batch: int  # pixels
    weight_decay: float
    advance: Callable[[int], None] = lambda _: None  # told every step


@dataclass(frozen=True)
class Depths:
    """The depth maps of a split, read when they are needed.

    Args:
        pairs: The files.
        scale: Depth of one unit of the files.
        crop: Rows and columns that count: top, bottom, left, right; None: all.
    """

    pairs: PairedPaths
    scale: float | None = None
    crop: tuple[int, int, int, int] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Floats:
        """One map ``[H, W]``; NaN where it is missing."""
        return read_depth(self.pairs.targets[index], self.scale)

    def scored(self, index: int) -> Floats:
        """The same, missing outside of the crop too."""
        found = self.read(index)
        if self.crop is not None:
            top, bottom, left, right = self.crop
            outside = np.ones(found.shape, dtype=bool)
            outside[top:bottom, left:right] = False
            found[outside] = np.nan
        return found


def draw_depths(
    grids: Grids, depths: Depths, within: Range, *, pixels: int, seed: int, device: torch.device | str = "cpu"
) -> Pixels:
    """Pixels with a depth, evenly from all images, with the features of places and class token ``[P, 2 D]``."""
    return draw(
        len(depths),
        pixels,
        lambda index: (grids.with_cls(index, device), grids.layouts[index]),
        depths.read,
        lambda depth: np.flatnonzero((depth >= within.least) & (depth <= within.most)),
        seed=seed,
    )


class ChosenDepth(NamedTuple):
    """A head and how its rate or strength was found."""

    head: DepthHead
    value: float
    tried: dict[float, float]  # rate or strength: RMSE of pixels of held-out bank images


def learn_bins(
    drawn: Pixels, within: Range, bins: int, training: Training, *, images: int, holdout: float, seed: int
) -> ChosenDepth:
    """Train the bins' layer: the rate is chosen on held-out images, then all are used.

    Args:
        drawn: Pixels of the bank.
        within: Depths of the first and the last bin.
        bins: How many.
        training: Rates to choose from, and the rest.
        images: Of the bank.
        holdout: Share of them on which the rate is chosen.
        seed: Of the first weights, batches and held-out images.
    """
    scaling, held = _split(drawn, images, holdout, seed)
    rows = scaling.rows(drawn.features)
    centres = torch.linspace(within.least, within.most, bins, device=rows.device)

    def train(part: Tensor, rate: float) -> BinsHead:
        weight, bias = _train(rows[part], drawn.targets[part], centres, training, rate, seed)
        return BinsHead(scaling, weight, bias, centres)

    tried = {rate: _rmse(train(~held, rate).depth(rows[held]), drawn.targets[held], within) for rate in training.rates}
    best = min(tried, key=lambda rate: tried[rate])
    return ChosenDepth(train(torch.ones_like(held), best), best, tried)


def learn_ridge(
    drawn: Pixels, within: Range, strengths: Sequence[float], *, images: int, holdout: float, seed: int
) -> ChosenDepth:
    """Fit the plain layer in closed form: the strength is chosen on held-out images, then all are used."""
    scaling, held = _split(drawn, images, holdout, seed)
    rows = scaling.rows(drawn.features)
    partial = _ridge(rows[~held], drawn.targets[~held], strengths, scaling)
    tried = {
        strength: _rmse(head.depth(rows[held]), drawn.targets[held], within)
        for strength, head in zip(strengths, partial, strict=True)
    }
    best = min(tried, key=lambda strength: tried[strength])
    return ChosenDepth(_ridge(rows, drawn.targets, [best], scaling)[0], best, tried)


@torch.inference_mode()
def predict_depth(head: DepthHead, grids: Grids, index: int, size: tuple[int, int], within: Range) -> Tensor:
    """The depth of every pixel of an image, ``[H, W]``.

    Args:
        head: As trained.
        grids: Of the split.
        index: Of the image in it.
        size: Height and width of its depth map.
        within: What is predicted is cut off outside.
    """
    maps = head.scaling.maps(grids.with_cls(index, head.scaling.mean.device))
    found = []
    for one in maps:  # a window at a time: a map of all bins is large
        fine = functional.interpolate(one[None], scale_factor=_UPSAMPLED, mode="bilinear", align_corners=False)[0]
        found.append(head.depth(fine.permute(1, 2, 0)))
    whole = full_size(torch.stack(found)[:, None], grids.layouts[index], size)[0]
    return whole.clamp(within.least, within.most)


def errors_of(predicted: Figures, true: Figures) -> tuple[float, float, float]:
    """RMSE, AbsRel and δ1 of one image.

    Args:
        predicted: ``[P]``, the pixels that have a depth.
        true: ``[P]``.
    """
    ratio = np.maximum(predicted / true, true / predicted)
    return (
        float(np.sqrt(np.mean((predicted - true) ** 2))),
        float(np.mean(np.abs(predicted - true) / true)),
        float(np.mean(ratio < 1.25)),
    )


def measure_depth(head: DepthHead, grids: Grids, depths: Depths, within: Range) -> DepthErrors:
    """The errors of every image of a split; an image without a depth that counts is NaN."""
    found = []
    for index in range(len(depths)):
        true = depths.scored(index)
        predicted = predict_depth(head, grids, index, (true.shape[0], true.shape[1]), within).cpu().numpy()
        counted = (true >= within.least) & (true <= within.most)
        pair = predicted[counted].astype(np.float64), true[counted].astype(np.float64)
        found.append(errors_of(*pair) if counted.any() else (math.nan,) * 3)
    return DepthErrors(*np.array(found).T)


def _split(drawn: Pixels, images: int, holdout: float, seed: int) -> tuple[Scaling, Tensor]:
    held = held_out(images, holdout, seed=seed).to(drawn.images.device)[drawn.images]
    return Scaling.of(drawn.features), held


def _rmse(predicted: Tensor, true: Tensor, within: Range) -> float:
    return float((predicted.clamp(within.least, within.most) - true).double().square().mean().sqrt())


def _ridge(rows: Tensor, true: Tensor, strengths: Sequence[float], scaling: Scaling) -> list[RidgeHead]:
    """One head a strength; the penalty is of the mean squared error, and the constant is free."""
    mean, offset = rows.double().mean(dim=0), true.double().mean()
    # Centred products without a centred copy of all rows.
    square = rows.T.double() @ rows.double() / len(rows) - torch.outer(mean, mean)
    product = rows.T.double() @ true.double() / len(rows) - mean * offset
    variance, axes = torch.linalg.eigh(square)
    heads = []
    for strength in strengths:
        weight = axes @ ((axes.T @ product) / (variance.clamp_min(0) + strength))
        heads.append(RidgeHead(scaling, weight.to(rows.dtype), (offset - mean @ weight).to(rows.dtype)))
    return heads


def _train(
    rows: Tensor, true: Tensor, centres: Tensor, training: Training, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight = torch.normal(0.0, 0.01, (rows.shape[1], len(centres)), generator=random).to(rows.device).requires_grad_()
    bias = torch.zeros(len(centres), device=rows.device, requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], lr=rate, weight_decay=training.weight_decay)
    target = (true + _LOG_OFFSET).log()
    for step in range(training.steps):
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / training.steps))
        part = torch.randint(len(rows), (min(training.batch, len(rows)),), generator=random).to(rows.device)
        shares = torch.relu(rows[part] @ weight + bias) + _LIFT
        predicted = (shares @ centres) / shares.sum(dim=1)
        loss = _scale_invariant((predicted + _LOG_OFFSET).log() - target[part], warm=step < _WARM_UP * training.steps)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        training.advance(1)
    return weight.detach(), bias.detach()


def _scale_invariant(difference: Tensor, *, warm: bool) -> Tensor:
    """Of logarithms (Eigen et al. 2014): a common factor counts for less than what varies."""
    mean = _MEAN_SHARE * difference.mean().square()
    return (mean if warm else mean + difference.var()).clamp_min(1e-12).sqrt()
