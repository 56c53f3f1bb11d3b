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

from dinomill.training.centering import Targets, softmax_with_partition
from dinomill.training.losses.prototypes import Prototypes


@dataclass(frozen=True)
class CrossEntropyOptions:
    """How the cross-entropy is computed; none of it changes the value beyond rounding.

    Args:
        temperature: Student temperature.
        dtype: Precision of the matrix products and of what is kept for the backward pass; sums are fp32.
        keep_bytes: If the student's softmax is at most this large it is kept for the backward pass, else it is computed
            again there, tile by tile: a third more products for next to no memory.
    """

    temperature: float = 0.1
    dtype: torch.dtype = torch.float32
    keep_bytes: int = 2**30


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
        for tile in prototypes.tiles():
            logits = (scaled @ prototypes.weight(tile, options.dtype).T).float()
            log_partition, share = softmax_with_partition(logits)
            partitions.append(log_partition)
            agreement += logits.mul_(targets.tile(tile, rows)).sum(1)
            if softmax is not None:
                softmax[:, tile] = share
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
        pull = (gradient * row)[:, None]
        push = gradient * mass
        for index, tile in enumerate(prototypes.tiles()):
            scale = prototypes.scale(tile)
            weight = (direction[tile].float() * scale).to(options.dtype)
            share = torch.softmax((scaled @ weight.T).float(), dim=1) if softmax is None else softmax[:, tile].float()
            share *= (push * (stacked[:, index] - log_partition).exp())[:, None]
            towards_logits = share.sub_(targets.tile(tile, rows).mul_(pull)).to(options.dtype)
            towards_features += towards_logits @ weight
            towards_weight = (towards_logits.T @ scaled).float()
            _unnormalise(
                towards_weight, direction[tile], gain[tile], scale, towards_direction[tile], towards_gain[tile]
            )
        return towards_features / options.temperature, towards_direction, towards_gain, None, None, None, None


def _unnormalise(
    towards_weight: Tensor,
    direction: Tensor,
    gain: Tensor,
    scale: Tensor,
    towards_direction: Tensor,
    towards_gain: Tensor,
) -> None:
    """Carry a gradient through weight = gain · direction / ‖direction‖, into the two given tensors.

    Only the part of the gradient across the direction moves it; the part along it moves the gain.
    """
    unit = direction.float() * (scale / gain)
    along = (towards_weight * unit).sum(1, keepdim=True)
    towards_gain.copy_(along)
    towards_direction.copy_(towards_weight.sub_(unit.mul_(along)).mul_(scale))
