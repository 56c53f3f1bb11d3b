"""A transformer block's forward and backward in two pieces, for training on a CPU.

On a CPU a block's products are cheap (AMX, AVX512-BF16) and what stands between them is not: casts, copies, sums over
tensors that no longer fit the cache. Written as one autograd function each, the two branches
- keep 10 numbers a token and channel for the backward pass instead of about 28, in the compute precision: the norms'
  inputs, queries, keys and values, attention's output, the hidden layer before its GELU. Norms, attention probabilities
  and GELU are computed again from these, which costs less than keeping and reading them;
- fold LayerScale into the weights of the layer before it, and the softmax's scale into those of the queries: both are
  exact, and two passes over the tokens less each;
- add to the residual stream, which stays fp32, whole images at a time.

Measured against the plain block in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dinomill.models.attention import Sequences
from dinomill.models.fused_branches import (
    AttentionWeights,
    FeedForwardWeights,
    Shape,
    attention,
    attention_backward,
    feed_forward,
    feed_forward_backward,
)
from dinomill.models.stochastic_depth import Subset


def products_dtype(x: Tensor) -> torch.dtype:
    """The precision in which products of ``x`` are to be computed: autocast's, where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def fused_attention(x: Tensor, weights: AttentionWeights, shape: Shape) -> Tensor:
    """``x [T, D]`` plus the attention branch; products in autocast's precision where that is on."""
    with torch.autocast("cpu", enabled=False):
        return _FusedAttention.apply(x.float(), shape, *weights)  # type: ignore[no-any-return, no-untyped-call]


def fused_feed_forward(x: Tensor, weights: FeedForwardWeights, shape: Shape) -> Tensor:
    """``x [T, D]`` plus the feed-forward branch, in place: ``x`` must be the result of ``fused_attention``."""
    with torch.autocast("cpu", enabled=False):
        return _FusedFeedForward.apply(x, shape, *weights)  # type: ignore[no-any-return, no-untyped-call]


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Shape, *parameters: Tensor) -> Tensor:
        out, rows = x.clone(), _Rows(shape.layout, shape.subset)
        taken = rows.take(out, shape.dtype)
        branch, heads, mixed = attention(taken, AttentionWeights(*parameters), shape, rows.kept)
        rows.add(out, branch)
        ctx.save_for_backward(taken, heads, mixed, *parameters)
        ctx.shape = shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        taken, heads, mixed, *parameters = ctx.saved_tensors
        weights, shape = AttentionWeights(*parameters), ctx.shape
        towards_x, rows = gradient.clone(), _Rows(shape.layout, shape.subset)
        towards_rows, gradients = attention_backward(
            rows.take(gradient, shape.dtype, scaled=True), taken, heads, mixed, weights, shape, rows.kept
        )
        rows.add(towards_x, towards_rows, scaled=False)
        return towards_x, None, *(g.to(w.dtype) for g, w in zip(gradients, weights, strict=True))


class _FusedFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Shape, *parameters: Tensor) -> Tensor:
        rows = _Rows(shape.layout, shape.subset)
        taken = rows.take(x, shape.dtype)
        branch, hidden = feed_forward(taken, FeedForwardWeights(*parameters), shape)
        rows.add(x, branch)
        ctx.mark_dirty(x)
        ctx.save_for_backward(taken, hidden, *parameters)
        ctx.shape = shape
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        taken, hidden, *parameters = ctx.saved_tensors
        weights, shape = FeedForwardWeights(*parameters), ctx.shape
        towards_x, rows = gradient.clone(), _Rows(shape.layout, shape.subset)
        towards_rows, gradients = feed_forward_backward(
            rows.take(gradient, shape.dtype, scaled=True), taken, hidden, weights, shape.eps
        )
        rows.add(towards_x, towards_rows, scaled=False)
        return towards_x, None, *(g.to(w.dtype) for g, w in zip(gradients, weights, strict=True))


class _Rows:
    """The images that take part in a branch: taken out of the packed matrix and added back, part by part."""

    def __init__(self, layout: Sequence[Sequences], subset: Subset | None) -> None:
        self.kept = tuple(layout if subset is None else subset.layout)
        self._layout, self._whole = layout, subset is None
        self._chosen: list[Tensor] = []
        if subset is None:
            return
        start = row = 0
        for part, kept in zip(layout, self.kept, strict=True):
            first_rows = subset.rows[row : row + kept.samples * kept.length : kept.length]
            self._chosen.append((first_rows - start) // part.length)
            start += part.samples * part.length
            row += kept.samples * kept.length

    def take(self, x: Tensor, dtype: torch.dtype, *, scaled: bool = False) -> Tensor:
        """``[T, D]`` to ``[R, D]`` in a precision, times the branch's scale if asked for."""
        if self._whole:
            return x.to(dtype, copy=True)
        rows = x.new_empty(sum(kept.samples * kept.length for kept in self.kept), x.shape[1], dtype=dtype)
        for whole, part, chosen, scale in self._parts(x, rows):
            taken = whole.index_select(0, chosen)
            part.copy_(taken.mul_(scale) if scaled else taken)
        return rows

    def add(self, x: Tensor, rows: Tensor, *, scaled: bool = True) -> None:
        """Add ``[R, D]`` to its places in ``[T, D]``, times the branch's scale if asked for."""
        if self._whole:
            x += rows
            return
        for whole, part, chosen, scale in self._parts(x, rows):
            whole.index_add_(0, chosen, part.float(), alpha=scale if scaled else 1.0)

    def _parts(self, x: Tensor, rows: Tensor) -> list[tuple[Tensor, Tensor, Tensor, float]]:
        parts, start, row = [], 0, 0
        for full, kept, chosen in zip(self._layout, self.kept, self._chosen, strict=True):
            end, last = start + full.samples * full.length, row + kept.samples * kept.length
            whole, part = x[start:end].view(full.samples, -1), rows[row:last].view(kept.samples, -1)
            parts.append((whole, part, chosen, full.samples / kept.samples))
            start, row = end, last
        return parts
