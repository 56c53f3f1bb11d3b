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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dinomill.models.attention import Sequences
from dinomill.models.stochastic_depth import Subset


class AttentionWeights(NamedTuple):
    """Parameters of the attention branch, in the order in which its function takes them."""

    norm_weight: Tensor
    norm_bias: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    gain: Tensor


class FeedForwardWeights(NamedTuple):
    """Parameters of the feed-forward branch, in the order in which its function takes them."""

    norm_weight: Tensor
    norm_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor
    gain: Tensor


class Shape(NamedTuple):
    """What a branch needs to know besides tensors."""

    heads: int
    eps: float
    dtype: torch.dtype  # of the products
    layout: tuple[Sequences, ...]
    subset: Subset | None  # the samples that take part


def compute_dtype(x: Tensor) -> torch.dtype:
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
        branch, heads, mixed = _attention(taken, AttentionWeights(*parameters), shape, rows.kept)
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
        towards_rows, gradients = _attention_backward(
            rows.take(gradient, shape.dtype, scaled=True), taken, heads, mixed, weights, shape, rows.kept
        )
        rows.add(towards_x, towards_rows, scaled=False)
        return towards_x, None, *(g.to(w.dtype) for g, w in zip(gradients, weights, strict=True))


class _FusedFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Shape, *parameters: Tensor) -> Tensor:
        rows = _Rows(shape.layout, shape.subset)
        taken = rows.take(x, shape.dtype)
        branch, hidden = _feed_forward(taken, FeedForwardWeights(*parameters), shape)
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
        towards_rows, gradients = _feed_forward_backward(
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


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(x, weight.shape, weight, bias, eps)


def _norm_backward(
    towards: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        towards, x, weight.shape, mean, rstd, weight, bias, [True, True, True]
    )
    return gradients


def _scaled(weight: Tensor, bias: Tensor, gain: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A linear layer with a gain on each output folded in."""
    return (weight * gain[:, None]).to(dtype), (bias * gain).to(dtype)


def _scaled_backward(
    towards_weight: Tensor, towards_bias: Tensor, weight: Tensor, bias: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradients of the folded layer to those of weight, bias and gain."""
    towards_weight, towards_bias = towards_weight.float(), towards_bias.float()
    towards_gain = (towards_weight * weight).sum(1) + towards_bias * bias
    return towards_weight * gain[:, None], towards_bias * gain, towards_gain


def _queries_scale(weights: AttentionWeights, heads: int) -> Tensor:
    """[3D] factors of the packed projection's outputs: the softmax's scale for queries, 1 for keys and values."""
    dim = weights.proj_bias.shape[0]
    scale = weights.qkv_bias.new_ones(3 * dim)
    scale[:dim] = (dim // heads) ** -0.5
    return scale


def _attention(
    x: Tensor, weights: AttentionWeights, shape: Shape, kept: Sequence[Sequences]
) -> tuple[Tensor, Tensor, Tensor]:
    """The branch's output [R, D]; queries, keys and values by head, part after part; and attention's output [R, D]."""
    normed, _, _ = _norm(x, weights.norm_weight, weights.norm_bias, shape.eps)
    scale = _queries_scale(weights, shape.heads)
    qkv_weight, qkv_bias = _scaled(weights.qkv_weight, weights.qkv_bias, scale, shape.dtype)
    qkv = torch.addmm(qkv_bias, normed, qkv_weight.t())
    heads, mixed = torch.empty_like(qkv), torch.empty_like(x)
    for rows, part in _by_part(kept):
        heads[rows].view(3, part.samples, shape.heads, part.length, -1).copy_(
            qkv[rows].view(part.samples, part.length, 3, shape.heads, -1).permute(2, 0, 3, 1, 4)
        )
        q, k, v = _heads(heads[rows], part, shape.heads)
        share = torch.softmax(torch.bmm(q, k.mT), dim=-1)
        _merge(mixed[rows], torch.bmm(share, v), part, shape.heads)
    proj_weight, proj_bias = _scaled(weights.proj_weight, weights.proj_bias, weights.gain, shape.dtype)
    return torch.addmm(proj_bias, mixed, proj_weight.t()), heads, mixed


def _attention_backward(
    towards: Tensor,
    x: Tensor,
    heads: Tensor,
    mixed: Tensor,
    weights: AttentionWeights,
    shape: Shape,
    kept: Sequence[Sequences],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    dtype = towards.dtype
    proj_gradients = _scaled_backward(
        towards.t() @ mixed, towards.sum(0), weights.proj_weight, weights.proj_bias, weights.gain
    )
    proj_weight, _ = _scaled(weights.proj_weight, weights.proj_bias, weights.gain, dtype)
    towards_mixed = towards @ proj_weight
    towards_qkv = torch.empty_like(heads)
    for rows, part in _by_part(kept):
        q, k, v = _heads(heads[rows], part, shape.heads)
        towards_out = _split(towards_mixed[rows], part, shape.heads)
        share = torch.softmax(torch.bmm(q, k.mT), dim=-1)
        towards_v = torch.bmm(share.mT, towards_out)
        towards_share = torch.bmm(towards_out, v.mT)
        scores = torch._softmax_backward_data(towards_share, share, -1, dtype)
        packed = torch.stack((torch.bmm(scores, k), torch.bmm(scores.mT, q), towards_v))
        towards_qkv[rows].view(part.samples, part.length, 3, shape.heads, -1).copy_(
            packed.view(3, part.samples, shape.heads, part.length, -1).permute(1, 3, 0, 2, 4)
        )
    normed, mean, rstd = _norm(x, weights.norm_weight, weights.norm_bias, shape.eps)
    scale = _queries_scale(weights, shape.heads)
    qkv_gradients = _scaled_backward(
        towards_qkv.t() @ normed, towards_qkv.sum(0), weights.qkv_weight, weights.qkv_bias, scale
    )
    qkv_weight, _ = _scaled(weights.qkv_weight, weights.qkv_bias, scale, dtype)
    towards_x, *norm_gradients = _norm_backward(
        towards_qkv @ qkv_weight, x, mean, rstd, weights.norm_weight, weights.norm_bias
    )
    return towards_x, (*norm_gradients, *qkv_gradients[:2], *proj_gradients)


def _feed_forward(x: Tensor, weights: FeedForwardWeights, shape: Shape) -> tuple[Tensor, Tensor]:
    """The branch's output [R, D] and the hidden layer before its GELU [R, 4D]."""
    normed, _, _ = _norm(x, weights.norm_weight, weights.norm_bias, shape.eps)
    hidden = torch.addmm(weights.fc1_bias.to(shape.dtype), normed, weights.fc1_weight.to(shape.dtype).t())
    fc2_weight, fc2_bias = _scaled(weights.fc2_weight, weights.fc2_bias, weights.gain, shape.dtype)
    return torch.addmm(fc2_bias, torch.nn.functional.gelu(hidden), fc2_weight.t()), hidden


def _feed_forward_backward(
    towards: Tensor, x: Tensor, hidden: Tensor, weights: FeedForwardWeights, eps: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    dtype = towards.dtype
    active = torch.nn.functional.gelu(hidden)
    fc2_gradients = _scaled_backward(
        towards.t() @ active, towards.sum(0), weights.fc2_weight, weights.fc2_bias, weights.gain
    )
    del active
    fc2_weight, _ = _scaled(weights.fc2_weight, weights.fc2_bias, weights.gain, dtype)
    towards_hidden = torch.ops.aten.gelu_backward(towards @ fc2_weight, hidden)
    normed, mean, rstd = _norm(x, weights.norm_weight, weights.norm_bias, eps)
    fc1_gradients = (towards_hidden.t() @ normed, towards_hidden.sum(0))
    towards_x, *norm_gradients = _norm_backward(
        towards_hidden @ weights.fc1_weight.to(dtype), x, mean, rstd, weights.norm_weight, weights.norm_bias
    )
    return towards_x, (*norm_gradients, *fc1_gradients, *fc2_gradients)


def _by_part(kept: Sequence[Sequences]) -> list[tuple[slice, Sequences]]:
    parts, start = [], 0
    for part in kept:
        parts.append((slice(start, start + part.samples * part.length), part))
        start += part.samples * part.length
    return parts


def _heads(rows: Tensor, part: Sequences, heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, each [B·H, N, d], of rows that hold them one after the other."""
    return rows.view(3, part.samples * heads, part.length, -1).unbind(0)


def _split(rows: Tensor, part: Sequences, heads: int) -> Tensor:
    """[B·N, H·d] to [B·H, N, d]."""
    return (
        rows.view(part.samples, part.length, heads, -1).transpose(1, 2).reshape(-1, part.length, rows.shape[1] // heads)
    )


def _merge(rows: Tensor, values: Tensor, part: Sequences, heads: int) -> None:
    """[B·H, N, d] into rows [B·N, H·d]."""
    rows.view(part.samples, part.length, heads, -1).copy_(
        values.view(part.samples, heads, part.length, -1).transpose(1, 2)
    )
