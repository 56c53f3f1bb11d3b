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
from dinomill.training.compilation import tile
from dinomill.training.config import CenteringConfig, CenteringKind
from dinomill.training.losses.prototypes import Prototypes, normalised

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

    def factor(self, part: slice) -> Tensor | None:
        """[k] factor of a tile of prototypes; None is 1."""
        return None if self.column is None else self.column[part]

    def dense(self) -> Tensor:
        """[R, K] the assignments in fp32."""
        return assigned(self.scores, self.column, None) * self.row[:, None]

    def split(self, counts: Sequence[int]) -> list[Targets]:
        """The targets of consecutive samples, without a copy of the scores."""
        parts = zip(torch.split(self.scores, list(counts)), torch.split(self.row, list(counts)), strict=True)
        return [Targets(scores, row, self.column) for scores, row in parts]

    @classmethod
    def from_dense(cls, assignments: Tensor) -> Self:
        """Wrap assignments that exist already."""
        return cls(assignments, torch.ones(assignments.shape[0], device=assignments.device))


def assigned(scores: Tensor, column: Tensor | None, rows: Tensor | None) -> Tensor:
    """[R', k] fp32 `scores · column`, without the row factors, for some rows or all; may be the scores themselves."""
    taken = (scores if rows is None else scores.index_select(0, rows)).float()
    return taken if column is None else taken * column


@torch.no_grad()
def sinkhorn_knopp(
    features: Tensor,
    prototypes: Prototypes,
    *,
    temperature: float,
    iterations: int = 3,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> Targets:
    """Assignments that use every prototype equally: columns share alike, then rows sum to 1, `iterations` times.

    Each column is divided by its maximum before it is exponentiated: nothing overflows, the column normalisation undoes
    it exactly, and only a sample hopelessly far from every prototype could underflow. Scores keep the maximum of their
    own rank, for which the column's factor makes up: ranks meet once an iteration for sums, and once more for maxima.

    Args:
        features: [R, D] L2-normalised bottleneck features. Ranks may have different R, or none.
        prototypes: The teacher head's last layer.
        temperature: Teacher temperature.
        iterations: Alternations of the column and row normalisation.
        dtype: Precision of the matrix product and of the kept scores; sums are fp32.
        compiled: Whether the passes over a tile are compiled.

    Returns:
        Factored targets of the rank's rows. The numbers of samples and of prototypes, constant factors of the textbook
        form, cancel in the last row normalisation and are left out.
    """
    first, turn = tile(_first_pass, compiled), tile(_one_pass, compiled)
    columns, rows = tile(_column_sums, compiled), tile(_row_sums, compiled)
    # fp16 could not hold small shares: bf16 has the range of fp32.
    kept = torch.bfloat16 if dtype is torch.float16 else dtype
    scores = features.new_empty(features.shape[0], prototypes.count, dtype=kept)
    scaled = (features.float() / temperature).to(dtype)
    sums, column, top = (features.new_empty(prototypes.count, dtype=torch.float32) for _ in range(3))
    total = features.new_zeros(features.shape[0], dtype=torch.float32)
    together = _ranks() > 1
    for part in prototypes.tiles():
        direction, gain = prototypes.direction[part], prototypes.gain[part]
        scores[:, part], highest, summed, column[part], reached = first(scaled, direction, gain, kept)
        if together:
            top[part], sums[part] = highest, summed
        total += reached
    row = torch.ones_like(total)
    own = _to_the_top_of_all(top) if together else None
    for iteration in range(iterations):
        if own is not None:
            if iteration:
                for part in prototypes.tiles():
                    sums[part] = columns(scores[:, part], row)
            column = _shared_columns(sums, own)
            total.zero_()
            for part in prototypes.tiles():
                total += rows(scores[:, part], column[part])
        elif iteration:
            # A tile holds whole columns: one pass over it does both normalisations.
            total.zero_()
            for part in prototypes.tiles():
                column[part], reached = turn(scores[:, part], row)
                total += reached
        row = total.clamp(min=_TINY).reciprocal_()
    return Targets(scores, row, column)


def _first_pass(
    scaled: Tensor, direction: Tensor, gain: Tensor, kept: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scores of a tile, maxima and sums of its columns, their factor, and what they add to the rows' sums."""
    logits = (scaled @ normalised(direction, gain, scaled.dtype).T).float()
    # A rank without samples takes part in the reductions all the same: its maximum is the smallest number.
    lowest = torch.finfo(torch.float32).min
    top = logits.amax(0) if logits.shape[0] else logits.new_full(logits.shape[1:], lowest)
    share = logits.sub_(top).exp_()
    sums = share.sum(0)
    column = sums.clamp(min=_TINY).reciprocal_()
    return share.to(kept), top, sums, column, share @ column


def _one_pass(scores: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """A tile's columns normalised, and what they add to the rows' sums."""
    share = scores.float()
    column = (row @ share).clamp_(min=_TINY).reciprocal_()
    return column, share @ column


def _column_sums(scores: Tensor, row: Tensor) -> Tensor:
    return row @ scores.float()


def _row_sums(scores: Tensor, column: Tensor) -> Tensor:
    return scores.float() @ column


def _to_the_top_of_all(top: Tensor) -> Tensor:
    """[K] by what this rank's scores are to be multiplied to stand below the maximum of all ranks."""
    highest = top.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return (top - highest).exp_()


def _shared_columns(sums: Tensor, own: Tensor) -> Tensor:
    """[K] factors of this rank's columns, from its rows' sums of them: one meeting of the ranks."""
    whole = sums * own
    dist.all_reduce(whole)
    return own / whole.clamp_(min=_TINY)


@torch.no_grad()
def centered_softmax(
    features: Tensor,
    prototypes: Prototypes,
    center: Tensor,
    *,
    temperature: float,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> tuple[Targets, Tensor]:
    """Softmax of `(logits − centre) / temperature`, tile by tile.

    Args:
        features: [R, D] L2-normalised bottleneck features.
        prototypes: The teacher head's last layer.
        center: [K] fp32.
        temperature: Teacher temperature.
        dtype: Precision of the matrix product and of the kept softmax; sums are fp32.
        compiled: Whether the passes over a tile are compiled.

    Returns:
        The targets, and the [K] fp32 sum of the raw logits over the rows, for the next centre.
    """
    share_of = tile(_centered_tile, compiled)
    kept = torch.bfloat16 if dtype is torch.float16 else dtype
    scores = features.new_empty(features.shape[0], prototypes.count, dtype=kept)
    row = features.new_ones(features.shape[0], dtype=torch.float32)
    column_sum = torch.empty_like(center)
    partitions = []
    features = features.to(dtype)
    for part in prototypes.tiles():
        direction, gain = prototypes.direction[part], prototypes.gain[part]
        scores[:, part], log_partition, column_sum[part] = share_of(
            features, direction, gain, center[part], temperature, kept
        )
        partitions.append(log_partition)
    if len(partitions) > 1:
        stacked = torch.stack(partitions, dim=1)
        factors = (stacked - stacked.logsumexp(dim=1, keepdim=True)).exp()
        for index, part in enumerate(prototypes.tiles()):
            scores[:, part] *= factors[:, index, None]
    return Targets(scores, row), column_sum


def _centered_tile(
    features: Tensor, direction: Tensor, gain: Tensor, center: Tensor, temperature: float, kept: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax within a tile, its log of the partition function, and the sum of the raw logits over the rows."""
    logits = (features @ normalised(direction, gain, features.dtype).T).float()
    column_sum = logits.sum(0)
    log_partition, share = softmax_with_partition(logits.sub_(center).div_(temperature))
    return share.to(kept), log_partition, column_sum


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
        compiled: bool = False,
    ) -> Targets:
        """Targets of [R, D] teacher features.

        Args:
            features: L2-normalised bottleneck features.
            prototypes: The teacher head's last layer.
            temperature: Teacher temperature.
            dtype: Precision of the projection.
            compiled: Whether the passes over a tile are compiled.
        """
        with autocast(features.device):
            if self.config.kind is CenteringKind.SINKHORN_KNOPP:
                return sinkhorn_knopp(
                    features,
                    prototypes,
                    temperature=temperature,
                    iterations=self.config.iterations,
                    dtype=dtype,
                    compiled=compiled,
                )
            targets, column_sum = centered_softmax(
                features, prototypes, self.center, temperature=temperature, dtype=dtype, compiled=compiled
            )
            self.update(column_sum, len(features))
            return targets

    @torch.no_grad()
    def update(self, column_sum: Tensor, rows: int) -> None:
        """Move the centre towards the mean logits of all ranks' rows: sums and counts are reduced, not means."""
        total = torch.cat([column_sum, column_sum.new_full((1,), rows)])
        if _ranks() > 1:
            dist.all_reduce(total)
        self.center.lerp_(total[:-1] / total[-1].clamp(min=1), 1 - self.config.center_momentum)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
