"""Teacher assignments: Sinkhorn-Knopp, or softmax with an EMA centre.

Both give each sample (row) a distribution over prototypes (columns) that does not collapse onto a few of them. All
sums are fp32 whatever the precision around them.

Sources: Caron et al., SwAV, 2020 (Sinkhorn-Knopp); Caron et al., DINO, 2021 (centering); DINOv2 paper, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinomill.models.hardware import autocast
from dinomill.training.config import CenteringConfig, CenteringKind
from dinomill.training.losses.prototypes import Prototypes

# Smallest normal fp32 number: a sum that underflows leaves its samples nothing, instead of NaN.
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Targets:
    """Assignments in factored form: `scores · row · column`, so that scaling them never rewrites the matrix.

    Args:
        scores: [R, K] non-negative, in the compute precision.
        row: [R] fp32 factor of each sample.
        column: [K] fp32 factor of each prototype; None is 1.
    """

    scores: Tensor
    row: Tensor
    column: Tensor | None = None

    def tile(self, tile: slice, rows: Tensor | None = None) -> Tensor:
        """[R', k] fp32 `scores · column` of a tile of prototypes, without the row factors, for some rows or all."""
        scores = self.scores[:, tile]
        scores = (scores if rows is None else scores[rows]).float()
        return scores if self.column is None else scores * self.column[tile]

    def dense(self) -> Tensor:
        """[R, K] the assignments in fp32."""
        return self.tile(slice(None)) * self.row[:, None]

    def split(self, counts: Sequence[int]) -> list[Targets]:
        """The targets of consecutive samples, without a copy of the scores."""
        parts = zip(torch.split(self.scores, list(counts)), torch.split(self.row, list(counts)), strict=True)
        return [Targets(scores, row, self.column) for scores, row in parts]

    @classmethod
    def from_dense(cls, assignments: Tensor) -> Self:
        """Wrap assignments that exist already."""
        return cls(assignments, torch.ones(assignments.shape[0], device=assignments.device))


@torch.no_grad()
def sinkhorn_knopp(
    features: Tensor,
    prototypes: Prototypes,
    *,
    temperature: float,
    iterations: int = 3,
    weight: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    process_group: dist.ProcessGroup | None = None,
) -> Targets:
    """Assignments that use every prototype equally: columns share alike, then rows sum to 1, `iterations` times.

    Each column is divided by its maximum over all ranks before it is exponentiated: nothing overflows, the column
    normalisation undoes it exactly, and only a sample that is hopelessly far from every prototype could underflow.
    A tile holds whole columns, so that one pass over the scores does both normalisations, and the first needs none.

    Args:
        features: [R, D] L2-normalised bottleneck features. Ranks may have different R, or none.
        prototypes: The teacher head's last layer.
        temperature: Teacher temperature.
        iterations: Alternations of the column and row normalisation.
        weight: [R] 1 for rows that count and 0 for padding; None is all 1.
        dtype: Precision of the matrix product and of the kept scores; sums are fp32.
        process_group: Ranks whose samples are assigned together; None is all.

    Returns:
        Factored targets of the rank's rows. The numbers of samples and of prototypes, constant factors of the textbook
        form, cancel in the last row normalisation and are left out.
    """
    # fp16 could not hold small shares: bf16 has the range of fp32.
    kept = torch.bfloat16 if dtype is torch.float16 else dtype
    scores = features.new_empty(features.shape[0], prototypes.count, dtype=kept)
    column = features.new_empty(prototypes.count, dtype=torch.float32)
    row = features.new_ones(features.shape[0], dtype=torch.float32) if weight is None else weight.float()
    scaled = (features.float() / temperature).to(dtype)
    for iteration in range(iterations):
        total = torch.zeros_like(row)
        for tile in prototypes.tiles():
            if iteration == 0:
                part = _column_shares(scaled @ prototypes.weight(tile, dtype).T, process_group)
                scores[:, tile] = part
            else:
                part = scores[:, tile].float()
            sums = _all_reduce(row @ part, dist.ReduceOp.SUM, process_group)
            column[tile] = sums.clamp_(min=_TINY).reciprocal_()
            total += part @ column[tile]
        row = total.clamp_(min=_TINY).reciprocal_()
        if weight is not None:
            row *= weight
    return Targets(scores, row, column)


def _column_shares(logits: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
    logits = logits.float()
    # A rank without samples takes part in the reductions all the same.
    top = logits.amax(0) if logits.shape[0] else logits.new_full(logits.shape[1:], -torch.inf)
    return logits.sub_(_all_reduce(top, dist.ReduceOp.MAX, process_group)).exp_()


@torch.no_grad()
def centered_softmax(
    features: Tensor,
    prototypes: Prototypes,
    center: Tensor,
    *,
    temperature: float,
    weight: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Targets, Tensor]:
    """Softmax of `(logits − centre) / temperature`, tile by tile.

    Args:
        features: [R, D] L2-normalised bottleneck features.
        prototypes: The teacher head's last layer.
        center: [K] fp32.
        temperature: Teacher temperature.
        weight: [R] 1 for rows that count and 0 for padding; None is all 1.
        dtype: Precision of the matrix product and of the kept softmax; sums are fp32.

    Returns:
        The targets, and the [K] fp32 sum of the raw logits over the rows, for the next centre.
    """
    kept = torch.bfloat16 if dtype is torch.float16 else dtype
    scores = features.new_empty(features.shape[0], prototypes.count, dtype=kept)
    row = features.new_ones(features.shape[0], dtype=torch.float32) if weight is None else weight.float()
    column_sum = torch.empty_like(center)
    partitions = []
    features = features.to(dtype)
    for tile in prototypes.tiles():
        logits = (features @ prototypes.weight(tile, dtype).T).float()
        column_sum[tile] = row @ logits
        log_partition, share = softmax_with_partition(logits.sub_(center[tile]).div_(temperature))
        scores[:, tile] = share
        partitions.append(log_partition)
    stacked = torch.stack(partitions, dim=1)
    if len(partitions) > 1:
        factors = (stacked - stacked.logsumexp(dim=1, keepdim=True)).exp()
        for index, tile in enumerate(prototypes.tiles()):
            scores[:, tile] *= factors[:, index, None]
    return Targets(scores, row), column_sum


def softmax_with_partition(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Row-wise log of the partition function [R] and softmax [R, k] of fp32 logits.

    The softmax kernel exponentiates faster than `exp` does (26 against 43 ms for 40 million on a CPU); the largest
    share is exp(max − log_partition), which gives the partition function for the price of two maxima.
    """
    share = torch.softmax(logits, dim=1)
    return logits.amax(1) - share.amax(1).log(), share


class Centering(nn.Module):
    """Turns teacher logits into targets; holds the EMA centre where there is one.

    The centre that a step uses is that of the steps before it, as in the official code.

    Args:
        config: Kind and constants.
        prototypes: K.
    """

    center: Tensor

    def __init__(self, config: CenteringConfig, prototypes: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("center", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(
        self,
        features: Tensor,
        prototypes: Prototypes,
        *,
        temperature: float,
        dtype: torch.dtype,
        weight: Tensor | None = None,
    ) -> Targets:
        """Targets of [R, D] teacher features.

        Args:
            features: L2-normalised bottleneck features.
            prototypes: The teacher head's last layer.
            temperature: Teacher temperature.
            dtype: Precision of the projection.
            weight: [R] 1 for rows that count, 0 for padding.
        """
        with autocast(features.device):
            if self.config.kind is CenteringKind.SINKHORN_KNOPP:
                return sinkhorn_knopp(
                    features,
                    prototypes,
                    temperature=temperature,
                    iterations=self.config.iterations,
                    weight=weight,
                    dtype=dtype,
                )
            targets, column_sum = centered_softmax(
                features, prototypes, self.center, temperature=temperature, weight=weight, dtype=dtype
            )
            self.update(column_sum, targets.row.sum())
            return targets

    @torch.no_grad()
    def update(self, column_sum: Tensor, rows: Tensor) -> None:
        """Move the centre towards the mean logits of all ranks' rows: sums and counts are reduced, not means."""
        total = _all_reduce(torch.cat([column_sum, rows.reshape(1)]), dist.ReduceOp.SUM, None)
        self.center.lerp_(total[:-1] / total[-1].clamp(min=1), 1 - self.config.center_momentum)


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
        dist.all_reduce(tensor, op=operation, group=group)
    return tensor
