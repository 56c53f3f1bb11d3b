"""Self-attention over packed sequences: one matrix of tokens, a kernel chosen by device and length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dinomill.models.position import rotate

# On a CPU, in half precision, explicit products beat the fused kernel up to about this many tokens. Heads of ViT-S in
# bf16, time of the fused kernel over the explicit one at 10, 65, 257 and 513 tokens: forward 1.7, 1.7, 1.5, 1.0; with
# backward 8.0, 3.7, 1.5, 0.6. In fp32 the fused kernel is faster at every length (0.3 to 0.75 of the time).
CPU_EXPLICIT_TOKENS = 320


class Sequences(NamedTuple):
    """Some sequences of one length: a part of a packed matrix."""

    samples: int
    length: int


class SelfAttention(nn.Module):
    """Multi-head self-attention; every projection sees all sequences as one matrix.

    Args:
        dim: Width of a token.
        num_heads: Divides it.
        bias: Which of queries, keys and values have one. Without keys' the parameter keeps its place for them, unused.
    """

    def __init__(self, dim: int, num_heads: int, bias: Literal["full", "query_value", "none"] = "full") -> None:
        super().__init__()
        self.num_heads = num_heads
        self.bias = bias
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias != "none")
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, layout: Sequence[Sequences], turns: Sequence[Tensor | None]) -> Tensor:
        """Attend within each sequence.

        Args:
            x: ``[T, D]``, the sequences of all parts one after the other.
            layout: The parts; ``sum(samples * length) == T``.
            turns: Of the rotary positions of each part, or None.

        Returns:
            ``[T, D]``.
        """
        parts = torch.split(self._project(x), [part.samples * part.length for part in layout])
        mixed = []
        for part, qkv, turn in zip(layout, parts, turns, strict=True):
            heads = qkv.view(part.samples, part.length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = heads.unbind(0)  # each [B, H, N, head_dim]
            if turn is not None:
                q, k = rotate(heads[:2], turn).unbind(0)
            mixed.append(attend(q, k, v).transpose(1, 2).reshape(part.samples * part.length, -1))
        y: Tensor = self.proj(mixed[0] if len(mixed) == 1 else torch.cat(mixed))
        return y

    def of_class_tokens(self, x: Tensor, part: Sequences, turn: Tensor | None) -> Tensor:
        """What each sequence's first token takes from every token, by head: ``[B, H, N]``, which sums to 1.

        Args:
            x: ``[B · N, D]``, sequences of one length.
            part: That layout.
            turn: Of the rotary positions, or None.
        """
        heads = self._project(x).view(part.samples, part.length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (heads[:2] if turn is None else rotate(heads[:2], turn)).unbind(0)
        products = (q[:, :, :1] @ k.mT).float()[:, :, 0]
        return torch.softmax(products * q.shape[-1] ** -0.5, dim=-1)

    def _project(self, x: Tensor) -> Tensor:
        if self.bias != "query_value":
            y: Tensor = self.qkv(x)
            return y
        # Without positions a bias of the keys would change nothing (it is the same for all keys); turned, it would.
        query, key, value = self.qkv.bias.chunk(3)
        return nn.functional.linear(x, self.qkv.weight, torch.cat([query, torch.zeros_like(key), value]))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of ``[B, H, N, d]``, by the kernel that is fastest there."""
    if q.device.type == "cpu" and q.dtype != torch.float32 and q.shape[-2] <= CPU_EXPLICIT_TOKENS:
        return _ExplicitAttention.apply(q, k, v)  # type: ignore[no-any-return, no-untyped-call]
    return nn.functional.scaled_dot_product_attention(q, k, v)


class _ExplicitAttention(torch.autograd.Function):
    """Attention as two batched products, keeping the probabilities in the input's precision for the backward.

    Autograd on the same lines would keep the fp32 softmax as well, and run its backward in more passes.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        probabilities = torch.softmax(torch.matmul(q, k.mT).float() * scale, dim=-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, probabilities)
        return torch.matmul(probabilities, v)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, probabilities = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        gradient = gradient.to(q.dtype)
        towards_v = torch.matmul(probabilities.mT, gradient)
        towards_p = torch.matmul(gradient, v.mT).float()
        p = probabilities.float()
        towards_p = towards_p * p
        scores = ((towards_p - p * towards_p.sum(dim=-1, keepdim=True)) * scale).to(q.dtype)
        return torch.matmul(scores, k), torch.matmul(scores.mT, q), towards_v
