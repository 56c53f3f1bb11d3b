"""Cross-entropy between soft targets and a weight-normalised projection, fused and in tiles of prototypes.

Since all targets of a student row are known together, Σ_i CE(t_i, s) = (Σ_i mass_i) · logsumexp(s/τ) − ⟨Σ_i t_i, s⟩/τ:
one logsumexp a student row and one dot product with the summed targets, however many pairs there are. The gradient of
the logits is formed tile by tile, multiplied away at once, and never exists as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dinomill.training.centering import Targets, assigned, softmax_with_partition
from dinomill.training.compilation import tile
from dinomill.training.losses.prototypes import Prototypes, normalised, scale_of


@dataclass(frozen=True)
class CrossEntropyOptions:
    """How the cross-entropy is computed; none of it changes the value beyond rounding.

    Args:
        temperature: Student temperature.
        dtype: Precision of the matrix products and of what is kept for the backward pass; sums are fp32.
        keep_bytes: If the student's softmax is at most this large it is kept for the backward pass, else it is computed
            again there, tile by tile: a third more products for next to no memory.
        compiled: Whether the passes over a tile are compiled.
    """

    temperature: float = 0.1
    dtype: torch.dtype = torch.float32
    keep_bytes: int = 2**30
    compiled: bool = False


def projected_cross_entropy(
    features: Tensor,
    prototypes: Prototypes,
    targets: Targets,
    *,
    mass: Tensor,
    rows: Tensor | None = None,
    options: CrossEntropyOptions,
) -> Tensor:
    """Cross-entropy of each student row against its summed targets.

    Args:
        features: [R, D] L2-normalised bottleneck features of the student, with gradient.
        prototypes: The student head's last layer, with gradient.
        targets: Assignments, [R', K].
        mass: [R] fp32 sum of each row's targets (1 for one target, 2 for two summed).
        rows: [R] which of the R' targets belongs to each student row; None if R' = R, in order.
        options: Temperature, precision, memory.

    Returns:
        [R] fp32 losses.
    """
    loss: Tensor = _ProjectedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        features, prototypes.direction, prototypes.gain, targets, mass, rows, options
    )
    return loss


class _ProjectedCrossEntropy(torch.autograd.Function):
    """Keeps features, targets and, if small enough, the softmax; the backward forms the gradient a tile at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        direction: Tensor,
        gain: Tensor,
        targets: Targets,
        mass: Tensor,
        rows: Tensor | None,
        options: CrossEntropyOptions,
    ) -> Tensor:
        prototypes = Prototypes(direction, gain)
        # 1/τ goes into the smaller factor of the product, before rounding to the compute precision.
        scaled = (features.float() / options.temperature).to(options.dtype)
        keep = (
            any(ctx.needs_input_grad)
            and features.shape[0] * prototypes.count * options.dtype.itemsize <= options.keep_bytes
        )
        softmax = scaled.new_empty(features.shape[0], prototypes.count) if keep else None
        partitions = []
        agreement = torch.zeros_like(mass)
        forward_tile = tile(_forward_tile, options.compiled)
        for part in prototypes.tiles():
            log_partition, agreed, share = forward_tile(
                scaled, direction[part], gain[part], targets.scores[:, part], targets.factor(part), rows, keep
            )
            partitions.append(log_partition)
            agreement += agreed
            if softmax is not None and share is not None:
                softmax[:, part] = share
        stacked = torch.stack(partitions, dim=1)
        log_partition = stacked.logsumexp(dim=1)
        row = targets.row if rows is None else targets.row[rows]
        ctx.save_for_backward(scaled, direction, gain, mass, rows, row, softmax, stacked, log_partition)
        ctx.targets, ctx.options = targets, options
        return mass * log_partition - row * agreement

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled, direction, gain, mass, rows, row, softmax, stacked, log_partition = ctx.saved_tensors
        targets, options = ctx.targets, ctx.options
        prototypes = Prototypes(direction, gain)
        towards_features = torch.zeros_like(scaled, dtype=torch.float32)
        towards_direction = torch.empty_like(direction)
        towards_gain = torch.empty_like(gain)
        pull = gradient * row
        push = gradient * mass
        backward_tile = tile(_backward_tile, options.compiled)
        for index, part in enumerate(prototypes.tiles()):
            towards_rows, towards_direction[part], towards_gain[part] = backward_tile(
                scaled,
                direction[part],
                gain[part],
                None if softmax is None else softmax[:, part],
                push * (stacked[:, index] - log_partition).exp(),
                targets.scores[:, part],
                targets.factor(part),
                rows,
                pull,
            )
            towards_features += towards_rows
        return towards_features / options.temperature, towards_direction, towards_gain, None, None, None, None


def _forward_tile(
    scaled: Tensor,
    direction: Tensor,
    gain: Tensor,
    scores: Tensor,
    column: Tensor | None,
    rows: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of a tile: the log of its partition function [R], the targets' product with it [R], and the softmax if kept."""
    logits = (scaled @ normalised(direction, gain, scaled.dtype).T).float()
    log_partition, share = softmax_with_partition(logits)
    kept = share.to(scaled.dtype) if keep else None
    return log_partition, logits.mul_(assigned(scores, column, rows)).sum(1), kept


def _backward_tile(
    scaled: Tensor,
    direction: Tensor,
    gain: Tensor,
    softmax: Tensor | None,
    push: Tensor,
    scores: Tensor,
    column: Tensor | None,
    rows: Tensor | None,
    pull: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a tile adds to the gradient of the rows [R, D], and the gradients of its directions and gains."""
    scale = scale_of(direction, gain)
    weight = (direction.float() * scale).to(scaled.dtype)
    if softmax is None:
        share = torch.softmax((scaled @ weight.T).float(), dim=1)
    else:
        share = softmax.to(torch.float32, copy=True)
    share.mul_(push[:, None]).addcmul_(assigned(scores, column, rows), pull[:, None], value=-1)
    towards_logits = share.to(scaled.dtype)
    towards_direction, towards_gain = _unnormalised((towards_logits.T @ scaled).float(), direction, gain, scale)
    return (towards_logits @ weight).float(), towards_direction, towards_gain


def _unnormalised(towards_weight: Tensor, direction: Tensor, gain: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a gradient through weight = gain · direction / ‖direction‖.

    Only the part of the gradient across the direction moves it; the part along it moves the gain.
    """
    unit = direction.float() * (scale / gain)
    along = (towards_weight * unit).sum(1, keepdim=True)
    return towards_weight.sub_(unit.mul_(along)).mul_(scale), along
