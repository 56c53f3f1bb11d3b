"""The arithmetic of a block's two branches, forward and backward, on the rows that take part; see ``fused_block``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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


def attention(
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


def attention_backward(
    towards: Tensor,
    x: Tensor,
    heads: Tensor,
    mixed: Tensor,
    weights: AttentionWeights,
    shape: Shape,
    kept: Sequence[Sequences],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """From the gradient of the branch's output [R, D] to those of its input and of its parameters, in their order."""
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


def feed_forward(x: Tensor, weights: FeedForwardWeights, shape: Shape) -> tuple[Tensor, Tensor]:
    """The branch's output [R, D] and the hidden layer before its GELU [R, 4D]."""
    normed, _, _ = _norm(x, weights.norm_weight, weights.norm_bias, shape.eps)
    hidden = torch.addmm(weights.fc1_bias.to(shape.dtype), normed, weights.fc1_weight.to(shape.dtype).t())
    fc2_weight, fc2_bias = _scaled(weights.fc2_weight, weights.fc2_bias, weights.gain, shape.dtype)
    return torch.addmm(fc2_bias, torch.nn.functional.gelu(hidden), fc2_weight.t()), hidden


def feed_forward_backward(
    towards: Tensor, x: Tensor, hidden: Tensor, weights: FeedForwardWeights, eps: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """From the gradient of the branch's output [R, D] to those of its input and of its parameters, in their order."""
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
