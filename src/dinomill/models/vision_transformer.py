"""The vision transformer of DINOv2, with the parameter names and outputs of the official code.

One image at a time or many crops of several sizes at once: tokens always travel as one packed matrix ``[T, D]``, which
makes every linear layer and norm one large product; only attention looks at single sequences (Oquab et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from dinomill.models.attention import Sequences
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.in_training import TrainedTransformer
from dinomill.models.layers import Block, PatchEmbed
from dinomill.models.position import resize_positions, rotary_angles, turns
from dinomill.models.stochastic_depth import DropPath


class VisionTransformer(TrainedTransformer, nn.Module):
    """A backbone: images ``[B, C, H, W]`` in, normalised tokens out.

    Attributes that users of the official code read: ``embed_dim``, ``num_features``, ``n_blocks``, ``num_heads``,
    ``patch_size``, ``num_register_tokens``.
    """

    pos_embed: nn.Parameter | None
    register_tokens: nn.Parameter | None

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.embed_dim = self.num_features = dim
        self.n_blocks = config.depth
        self.num_heads = config.num_heads
        self.patch_size = config.patch_size
        self.num_register_tokens = config.registers
        self.patch_embed = PatchEmbed(config.patch_size, config.in_channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        learned = config.position == "learned"
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, dim)) if learned else None
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, dim)) if config.registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.cls_norm = nn.LayerNorm(dim, eps=config.norm_eps) if config.cls_norm else None
        self.local_cls_norm = nn.LayerNorm(dim, eps=config.norm_eps) if config.local_cls_norm else None
        # There is nothing to draw on the meta device, where normal_ would import torch._dynamo: 1.2 s of every load.
        if not self.cls_token.is_meta:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh, as the official code does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # The official code leaves the convolution at PyTorch's default, which for 588 inputs is a uniform of ±1/√588.
        bound = self.patch_embed.proj.weight[0].numel() ** -0.5
        for parameter in self.patch_embed.proj.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        nn.init.normal_(self.cls_token, std=1e-6, generator=generator)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02, generator=generator)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6, generator=generator)
        nn.init.zeros_(self.mask_token)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised class token, ``[B, D]``."""
        return self.forward_features(x)["x_norm_clstoken"]

    def forward_features(self, x: Tensor, masks: Tensor | None = None) -> dict[str, Tensor]:
        """All tokens of the last layer.

        Args:
            x: ``[B, C, H, W]``; sides are multiples of the patch size.
            masks: ``[B, N]`` bool: patches replaced by the mask token; None for none.

        Returns:
            ``x_norm_clstoken [B, D]``, ``x_norm_regtokens [B, R, D]``, ``x_norm_patchtokens [B, N, D]``,
            ``x_prenorm [B, 1 + R + N, D]`` (before the final norm) and ``masks``.
        """
        tokens = self.embed(x, masks)
        layout = (Sequences(*tokens.shape[:2]),)
        turned = (self._turns(x),)
        packed = tokens.flatten(0, 1)
        for block in self.blocks:
            packed = block(packed, layout, turned)
        outputs = self._named(self._normed(packed.view_as(tokens)))
        outputs["x_prenorm"] = packed.view_as(tokens)
        # As in the official code, the masks are passed through; that they may be None is left out of the annotation.
        outputs["masks"] = masks  # type: ignore[assignment]
        return outputs

    def forward_packed(
        self,
        crops: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        *,
        patch_indices: Sequence[Tensor | None] | None = None,
        drop_path: DropPath | None = None,
        rope_scales: Sequence[Tensor | None] | None = None,
        checkpoint: bool | Sequence[bool] = False,
    ) -> list[dict[str, Tensor]]:
        """Crops of several sizes in one pass: each linear layer and norm sees one matrix.

        Args:
            crops: A batch ``[B_i, C, H_i, W_i]`` for each size.
            masks: ``[B_i, N_i]`` bool or None, for each size; None for none at all.
            patch_indices: When only some patch tokens are wanted: for each size an int64 ``[M_i]`` into the flattened
                ``[B_i * N_i]`` patches, or None for no patches. The last block's feed-forward layer, two thirds of it,
                then runs for these and the class tokens only.
            drop_path: Stochastic depth, drawn by ``draw_drop_path(self.layout(shapes), self.n_blocks, rate)``.
            rope_scales: For rotary positions: a factor on the coordinates (a tensor of one number, drawn by
                ``draw_rope_scale``) for each size.
            checkpoint: Recompute blocks in the backward pass instead of keeping their activations: all, none, or one
                choice a block.

        Returns:
            For each size ``x_norm_clstoken [B_i, D]``, ``x_norm_regtokens [B_i, R, D]`` and
            ``x_norm_patchtokens [B_i, N_i, D]``; with ``patch_indices``, ``x_norm_clstoken [B_i, D]`` and
            ``x_norm_patchtokens [M_i, D]``.
        """
        masks = masks or [None] * len(crops)
        rope_scales = rope_scales or [None] * len(crops)
        tokens = [self.embed(crop, mask) for crop, mask in zip(crops, masks, strict=True)]
        layout = tuple(Sequences(*part.shape[:2]) for part in tokens)
        turned = tuple(self._turns(crop, scale) for crop, scale in zip(crops, rope_scales, strict=True))
        packed = torch.cat([part.flatten(0, 1) for part in tokens])
        rows = None if patch_indices is None else self._wanted_rows(layout, patch_indices, packed.device)
        flags = [checkpoint] * self.n_blocks if isinstance(checkpoint, bool) else checkpoint
        for index, (block, again) in enumerate(zip(self.blocks, flags, strict=True)):
            subsets = (None, None) if drop_path is None else (drop_path.attention[index], drop_path.ffn[index])
            arguments = (packed, layout, turned, *subsets, rows if index == self.n_blocks - 1 else None)
            if again and torch.is_grad_enabled():
                # Nothing random happens inside a block: its subsets are given.
                packed = recompute(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                packed = block(*arguments)
        tied = self.cls_norm is None and self.local_cls_norm is None
        if patch_indices is None:
            packed = self.norm(packed) if tied else packed
            parts = torch.split(packed, [part.samples * part.length for part in layout])
            views = [part.view(*shape, -1) for part, shape in zip(parts, layout, strict=True)]
            return [self._named(x if tied else self._normed(x, local=size > 0)) for size, x in enumerate(views)]
        counts = [0 if indices is None else indices.shape[0] for indices in patch_indices]
        packed = packed[: sum(part.samples for part in layout) + sum(counts)]
        packed = self.norm(packed) if tied else packed
        pieces = torch.split(packed, [n for part, m in zip(layout, counts, strict=True) for n in (part.samples, m)])
        return [
            {
                "x_norm_clstoken": cls if tied else self._cls_norm(local=size > 0)(cls),
                "x_norm_patchtokens": patches if tied else self.norm(patches),
            }
            for size, (cls, patches) in enumerate(zip(pieces[0::2], pieces[1::2], strict=True))
        ]

    def _wanted_rows(
        self, layout: Sequence[Sequences], patch_indices: Sequence[Tensor | None], device: torch.device
    ) -> Tensor:
        # Rows of the packed matrix: for each part its class tokens, then its wanted patches.
        prefix, start, rows = 1 + self.num_register_tokens, 0, []
        for part, indices in zip(layout, patch_indices, strict=True):
            rows.append(start + torch.arange(part.samples, device=device) * part.length)
            if indices is not None:
                patches = part.length - prefix
                rows.append(start + indices // patches * part.length + prefix + indices % patches)
            start += part.samples * part.length
        # The number of masked patches changes from step to step. Filled up to a multiple of an eighth of all tokens, it
        # is the same at nearly every step, so that compiled code sees one shape.
        count = sum(len(part) for part in rows)
        rows.append(torch.zeros(-count % (start // 8 + 1), dtype=torch.int64, device=device))
        return torch.cat(rows)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor | tuple[Tensor, Tensor], ...]:
        """Patch tokens of some layers, in order of depth.

        Args:
            x: ``[B, C, H, W]``.
            n: The last ``n`` layers, or the indices of the layers wanted.
            reshape: Return maps ``[B, D, H / p, W / p]`` instead of tokens ``[B, N, D]``.
            return_class_token: Return pairs of patch tokens and class token ``[B, D]``.
            norm: Apply the final norm to each.
        """
        wanted = range(self.n_blocks - n, self.n_blocks) if isinstance(n, int) else n
        tokens = self.embed(x)
        layout, turned = (Sequences(*tokens.shape[:2]),), (self._turns(x),)
        packed, kept = tokens.flatten(0, 1), []
        for index, block in enumerate(self.blocks):
            packed = block(packed, layout, turned)
            if index in wanted:
                kept.append(packed.view_as(tokens))
        if len(kept) != len(wanted):
            raise ValueError(f"layers {list(wanted)} asked for, but the model has layers 0 to {self.n_blocks - 1}")
        named = [self._named(self._normed(layer) if norm else layer) for layer in kept]
        patches = [outputs["x_norm_patchtokens"] for outputs in named]
        if reshape:
            rows, columns = self._grid(x)
            patches = [part.mT.reshape(part.shape[0], -1, rows, columns) for part in patches]
        if return_class_token:
            return tuple((part, outputs["x_norm_clstoken"]) for part, outputs in zip(patches, named, strict=True))
        return tuple(patches)

    def embed(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """Images to the first block's input, ``[B, 1 + R + N, D]``: class token, registers, patches."""
        patches = self.patch_embed(x)
        if masks is not None:
            patches = torch.where(masks[..., None], self.mask_token.to(patches.dtype), patches)
        cls_token: Tensor = self.cls_token
        if self.pos_embed is not None:
            config = self.config
            table = resize_positions(
                self.pos_embed[0, 1:],
                self._grid(x),
                offset=config.interpolate_offset,
                antialias=config.interpolate_antialias,
            )
            patches = patches + table
            cls_token = cls_token + self.pos_embed[:, :1]
        extra = [cls_token] if self.register_tokens is None else [cls_token, self.register_tokens]
        return torch.cat([*(token.expand(x.shape[0], -1, -1).to(patches.dtype) for token in extra), patches], dim=1)

    def layout(self, shapes: Sequence[tuple[int, int, int]]) -> tuple[Sequences, ...]:
        """The packed layout of crops given as (count, height, width) in pixels."""
        prefix = 1 + self.num_register_tokens
        side = self.patch_size
        return tuple(Sequences(count, prefix + (h // side) * (w // side)) for count, h, w in shapes)

    def draw_rope_scale(self, generator: torch.Generator | None = None) -> Tensor | None:
        """A factor on the rotary coordinates, log-uniform in [1 / rope_rescale, rope_rescale].

        None without rotary positions or rescaling.
        """
        if self.config.position != "rope" or self.config.rope_rescale == 1:
            return None
        return self.config.rope_rescale ** (2 * torch.rand((), generator=generator) - 1)

    def _grid(self, x: Tensor) -> tuple[int, int]:
        return x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size

    def _turns(self, x: Tensor, scale: Tensor | None = None) -> Tensor | None:
        config = self.config
        if config.position != "rope":
            return None
        angles = rotary_angles(
            self._grid(x), config.head_dim, config.rope_base, x.device, rounded=config.rope_periods == "bfloat16"
        )
        return turns(angles if scale is None else angles * scale)

    def _normed(self, tokens: Tensor, *, local: bool = False) -> Tensor:
        """The final norm of ``[B, N, D]``; class and register tokens have another where the weights do."""
        first = self._cls_norm(local=local)
        if first is self.norm:
            normed: Tensor = self.norm(tokens)
            return normed
        prefix = 1 + self.num_register_tokens
        return torch.cat([first(tokens[:, :prefix]), self.norm(tokens[:, prefix:])], dim=1)

    def _cls_norm(self, *, local: bool) -> nn.LayerNorm:
        if local and self.training and self.local_cls_norm is not None:
            return self.local_cls_norm
        return self.norm if self.cls_norm is None else self.cls_norm

    def _named(self, tokens: Tensor) -> dict[str, Tensor]:
        first = 1 + self.num_register_tokens
        return {
            "x_norm_clstoken": tokens[:, 0],
            "x_norm_regtokens": tokens[:, 1:first],
            "x_norm_patchtokens": tokens[:, first:],
        }


def build(config: VisionTransformerConfig, **keywords: Any) -> VisionTransformer:
    """A freshly initialised backbone; keywords change fields of the configuration."""
    return VisionTransformer(config.model_copy(update=keywords) if keywords else config)
