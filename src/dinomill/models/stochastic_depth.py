"""Stochastic depth by subset: a residual branch is computed for some samples only, and scaled up for those.

Dropping a branch after computing it wastes the work; here the tokens of the samples that take part are gathered into a
smaller matrix (Oquab et al. 2023, section 5). All random choices of a step are drawn beforehand, outside the network:
it compiles to stable shapes, never waits for the accelerator, and repeats exactly from a generator's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dinomill.models.attention import Sequences


@dataclass(frozen=True)
class Subset:
    """The samples of a packed matrix of T tokens that take part in one branch; R tokens in all."""

    rows: Tensor  # [R] int64: token rows that take part
    source: Tensor  # [T] int64: the place of each token row among `rows`, -1 where it does not take part
    scale: Tensor  # [R, 1] float32: samples over samples taking part, by which the branch is multiplied
    layout: tuple[Sequences, ...]  # the sequences that `rows` make up

    def factor(self, rows: Tensor) -> Tensor:
        """What the branch is multiplied by on token rows ``[M]``: the scale, or 0 where a row does not take part."""
        place = self.source[rows][:, None]
        return torch.where(place >= 0, self.scale[place.clamp_min(0)[:, 0]], 0)


@dataclass(frozen=True)
class DropPath:
    """The subsets of one forward pass, a pair for every block."""

    attention: tuple[Subset, ...]
    ffn: tuple[Subset, ...]


def draw_drop_path(
    layout: Sequence[Sequences],
    depth: int,
    rate: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> DropPath | None:
    """Draw which samples take part in each branch of each block.

    Every part of the layout and every branch draws its own ``max(int(B * (1 - rate)), 1)`` samples.

    Args:
        layout: The parts of the packed matrix, as given by ``VisionTransformer.layout``.
        depth: Number of blocks.
        rate: Share of the samples left out, in [0, 1).
        generator: A CPU generator; the draws are a function of its state.
        device: Where the network runs.

    Returns:
        None when the rate is 0.
    """
    if rate == 0:
        return None
    kept = tuple(Sequences(max(int(part.samples * (1 - rate)), 1), part.length) for part in layout)
    choices = [
        [
            torch.randperm(part.samples, generator=generator)[: keep.samples]
            for part, keep in zip(layout, kept, strict=True)
        ]
        for _ in range(2 * depth)
    ]
    subsets = _subsets(layout, choices, device)
    return DropPath(attention=tuple(subsets[0::2]), ffn=tuple(subsets[1::2]))


def subset(layout: Sequence[Sequences], choice: Sequence[Tensor], device: torch.device | str = "cpu") -> Subset:
    """The subset of given samples, one tensor of sample indices for each part of the layout."""
    return _subsets(layout, [choice], device)[0]


def _subsets(
    layout: Sequence[Sequences], choices: Sequence[Sequence[Tensor]], device: torch.device | str
) -> list[Subset]:
    # Only the samples' numbers travel; what follows from them is worked out where the network runs.
    samples = torch.stack([torch.cat(list(choice)) for choice in choices])
    if torch.device(device).type == "cuda":
        samples = samples.pin_memory()  # from pageable memory the copy would wait for the steps before it
    samples = samples.to(device, non_blocking=True)
    kept = tuple(Sequences(len(chosen), part.length) for part, chosen in zip(layout, choices[0], strict=True))
    start, rows, scales = 0, [], []
    for part, chosen in zip(layout, torch.split(samples, [keep.samples for keep in kept], dim=1), strict=True):
        within = torch.arange(part.length, device=device)
        rows.append((start + chosen[:, :, None] * part.length + within).flatten(1))
        scales.append(torch.full((rows[-1].shape[1], 1), part.samples / chosen.shape[1], device=device))
        start += part.samples * part.length
    all_rows, scale = torch.cat(rows, dim=1), torch.cat(scales)
    source = torch.full((len(choices), start), -1, device=device)
    source.scatter_(1, all_rows, torch.arange(all_rows.shape[1], device=device).expand_as(all_rows))
    return [Subset(row, place, scale, kept) for row, place in zip(all_rows, source, strict=True)]


def take(x: Tensor, chosen: Subset) -> Tensor:
    """The token rows that take part: ``[T, D]`` to ``[R, D]``."""
    return _Take.apply(x, chosen.rows, chosen.source)  # type: ignore[no-any-return, no-untyped-call]


def add_back(x: Tensor, branch: Tensor, chosen: Subset) -> Tensor:
    """The residual sum: ``x [T, D]`` plus the scaled ``branch [R, D]`` on the rows that took part."""
    return _AddBack.apply(x, branch, chosen.rows, chosen.source, chosen.scale)  # type: ignore[no-any-return, no-untyped-call]


# A gather's gradient is a scatter with accumulation, which is slow in compiled code (atomic on a GPU, scalar on a CPU).
# Rows are distinct here, so both directions of both operations can be gathers, which fuse with what stands around them.
# Outside compiled code nothing fuses, and whole rows are copied.


def _spread(branch: Tensor, rows: Tensor, source: Tensor) -> Tensor:
    # [R, D] to [T, D], zero for the rows that did not take part.
    if torch.compiler.is_compiling():
        return torch.where((source >= 0)[:, None], branch[source.clamp_min(0)], 0)
    return branch.new_zeros(source.shape[0], branch.shape[1]).index_copy_(0, rows, branch)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, source: Tensor) -> Tensor:
        ctx.save_for_backward(rows, source)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _spread(gradient, *ctx.saved_tensors), None, None


class _AddBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, rows: Tensor, source: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(rows, scale)
        ctx.branch_dtype = branch.dtype
        branch = branch * scale
        if torch.compiler.is_compiling():
            return x + _spread(branch, rows, source)
        return x.index_add(0, rows, branch.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        rows, scale = ctx.saved_tensors
        return gradient, (gradient.index_select(0, rows) * scale).to(ctx.branch_dtype), None, None, None
