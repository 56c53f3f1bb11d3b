"""The parts of a vision transformer: patch embedding, LayerScale, and the block of attention and feed-forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dinomill.models.attention import SelfAttention, Sequences
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.ffn import Mlp, SwiGlu
from dinomill.models.fused_block import fused_attention, fused_feed_forward, products_dtype
from dinomill.models.fused_branches import AttentionWeights, FeedForwardWeights, Shape
from dinomill.models.stochastic_depth import Subset, add_back, take


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each: a convolution whose stride is its kernel."""

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, N, D]``, patches in row-major order.

        Raises:
            ValueError: When a side is not a multiple of the patch size, or the images have other channels.
        """
        if x.ndim != 4 or x.shape[1] != self.proj.in_channels:
            raise ValueError(
                f"a batch of shape {tuple(x.shape)}; [B, {self.proj.in_channels}, H, W] is expected: a grey image is "
                "put to a model of colour by repeating its channel"
            )
        batch, channels, height, width = x.shape
        side = self.patch_size
        if height % side or width % side:
            raise ValueError(f"image sides {height} x {width} are not multiples of the patch size {side}")
        # As a matrix product: on a CPU several times faster than the convolution, and the same sum.
        patches = x.view(batch, channels, height // side, side, width // side, side).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(batch, (height // side) * (width // side), channels * side * side)
        return nn.functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class LayerScale(nn.Module):
    """A gain per channel after a branch (Touvron et al. 2021)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[..., D]``."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a gain and a residual sum, over packed sequences."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        dim, gain = config.embed_dim, config.layerscale
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = SelfAttention(dim, config.num_heads, config.qkv_bias)
        self.ls1 = nn.Identity() if gain is None else LayerScale(dim, gain)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = (SwiGlu if config.ffn == "swiglu" else Mlp)(dim, config.hidden_dim)
        self.ls2 = nn.Identity() if gain is None else LayerScale(dim, gain)

    def forward(
        self,
        x: Tensor,
        layout: Sequence[Sequences],
        turns: Sequence[Tensor | None],
        attention_subset: Subset | None = None,
        ffn_subset: Subset | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Apply the block.

        Args:
            x: ``[T, D]``, packed.
            layout: The sequences that ``x`` holds.
            turns: Of the rotary positions of each part of the layout, or None.
            attention_subset: The samples that take part in attention; None for all.
            ffn_subset: The samples that take part in the feed-forward layer; None for all.
            rows: ``[M]`` int64: the only token rows whose output is wanted; None for all.

        Returns:
            ``[T, D]``, or ``[M, D]``.
        """
        fused = self._fuses(x, turns)
        if fused:
            weights = AttentionWeights(*_parameters(self.norm1, self.attn.qkv, self.attn.proj, self.ls1))
            x = fused_attention(x, weights, self._shape(x, layout, attention_subset))
        else:
            x = self._attend(x, layout, turns, attention_subset)
        if rows is not None:
            x = x.index_select(0, rows)
            branch = self._feed_forward(x)
            return x + (branch if ffn_subset is None else branch * ffn_subset.factor(rows))
        if fused:
            assert isinstance(self.mlp, Mlp)
            ffn = FeedForwardWeights(*_parameters(self.norm2, self.mlp.fc1, self.mlp.fc2, self.ls2))
            return fused_feed_forward(x, ffn, self._shape(x, layout, ffn_subset))
        if ffn_subset is None:
            return x + self._feed_forward(x)
        return add_back(x, self._feed_forward(take(x, ffn_subset)), ffn_subset)

    def _fuses(self, x: Tensor, turns: Sequence[Tensor | None]) -> bool:
        """Whether the block can run in one piece: on a CPU, in training, uncompiled, in the released shape."""
        return (
            x.device.type == "cpu"
            and self.training
            and not torch.compiler.is_compiling()
            and isinstance(self.mlp, Mlp)
            and isinstance(self.ls1, LayerScale)
            and self.attn.bias == "full"
            and all(turn is None for turn in turns)
        )

    def _shape(self, x: Tensor, layout: Sequence[Sequences], subset: Subset | None) -> Shape:
        return Shape(self.attn.num_heads, self.norm1.eps, products_dtype(x), tuple(layout), subset)

    def _feed_forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.ls2(self.mlp(self.norm2(x)))
        return branch

    def _attend(
        self, x: Tensor, layout: Sequence[Sequences], turns: Sequence[Tensor | None], chosen: Subset | None
    ) -> Tensor:
        if chosen is None:
            branch: Tensor = self.ls1(self.attn(self.norm1(x), layout, turns))
            return x + branch
        return add_back(x, self.ls1(self.attn(self.norm1(take(x, chosen)), chosen.layout, turns)), chosen)


def _parameters(*layers: nn.Module) -> list[Tensor]:
    # By name: what a layer computes with need not be a parameter of its own (low-rank additions).
    names = ("weight", "bias", "gamma")
    return [getattr(layer, name) for layer in layers for name in names if hasattr(layer, name)]
