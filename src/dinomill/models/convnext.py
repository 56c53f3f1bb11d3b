"""ConvNeXt: a convolutional backbone with the outputs of a vision transformer.

Liu et al. 2022, "A ConvNet for the 2020s"; the class and patch features are those of DINOv3's distilled ConvNeXts
(Siméoni et al. 2025, section 5): the class feature is the norm of the last map's mean, the patch features are the norm
of its places. There is no stochastic depth and no mask token: it is trained in distillation alone, which does without.
Training sees it as ``StudentBackbone``.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from dinomill.models.config import Pooling
from dinomill.models.convnext_config import ConvNeXtConfig
from dinomill.models.student import CropFeatures

_KERNEL = 7
_EXPANSION = 4


class ChannelNorm(nn.LayerNorm):
    """A norm over the channels of maps ``[B, D, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Norm every place by itself."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then two linear layers at every place, with a gain and a residual sum."""

    def __init__(self, dim: int, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=_KERNEL, padding=_KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.pwconv1 = nn.Linear(dim, _EXPANSION * dim)
        self.pwconv2 = nn.Linear(_EXPANSION * dim, dim)
        gain = config.layerscale
        self.gamma = None if gain is None else nn.Parameter(torch.full((dim,), float(gain)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, D, H, W]`` to the same."""
        branch: Tensor = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        branch = self.pwconv2(nn.functional.gelu(self.pwconv1(branch)))
        if self.gamma is not None:
            branch = branch * self.gamma
        return x + branch.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """A backbone: images ``[B, C, H, W]`` in, normed features out.

    Attributes:
        embed_dim: Width of a token, the last map's channels.
        patch_size: The total stride. Sides that are no multiple of it lose the rest at the right and the bottom.
        n_blocks: Blocks of all stages.
    """

    num_register_tokens = 0

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = self.num_features = config.embed_dim
        self.n_blocks = config.depth
        self.patch_size = config.patch_size
        dims, eps = config.dims, config.norm_eps
        stem = nn.Conv2d(config.in_channels, dims[0], kernel_size=config.stem, stride=config.stem)
        self.patch_embed = nn.Sequential(OrderedDict(conv=stem, norm=ChannelNorm(dims[0], eps=eps)))
        self.halvings = nn.ModuleList(
            nn.Sequential(
                OrderedDict(norm=ChannelNorm(before, eps=eps), conv=nn.Conv2d(before, after, kernel_size=2, stride=2))
            )
            for before, after in itertools.pairwise(dims)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(ConvNeXtBlock(dim, config) for _ in range(depth))
            for dim, depth in zip(dims, config.depths, strict=True)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=eps)
        # There is nothing to draw on the meta device.
        if not self.norm.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh, as the official code does."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The class feature, ``[B, D]``."""
        return self.forward_features(x)["x_norm_clstoken"]

    def forward_features(self, x: Tensor, masks: Tensor | None = None) -> dict[str, Tensor]:
        """All features of the last map, under the names that a vision transformer gives them.

        Args:
            x: ``[B, C, H, W]``.
            masks: None: a convolution has no token to put into the place of a patch.

        Returns:
            ``x_norm_clstoken [B, D]``, ``x_norm_regtokens [B, 0, D]``, ``x_norm_patchtokens [B, N, D]``,
            ``x_prenorm [B, 1 + N, D]`` (before the final norm) and ``masks``.

        Raises:
            ValueError: When patches are masked, or the images do not fit.
        """
        if masks is not None:
            raise ValueError("a ConvNeXt has no mask token: it learns in distillation, where nothing is masked")
        maps = self._maps(x)[-1].flatten(2).mT
        tokens = torch.cat([maps.mean(dim=1, keepdim=True), maps], dim=1)
        normed: Tensor = self.norm(tokens)
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:1],
            "x_norm_patchtokens": normed[:, 1:],
            "x_prenorm": tokens,
            # As a vision transformer: that the masks may be None is left out of the annotation.
            "masks": masks,  # type: ignore[dict-item]
        }

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor | tuple[Tensor, Tensor], ...]:
        """Features of some stages, in order of depth, each as wide and on as fine a grid as its map.

        Args:
            x: ``[B, C, H, W]``.
            n: The last ``n`` stages, or the indices of the stages wanted.
            reshape: Return maps ``[B, D, h, w]`` instead of places ``[B, h · w, D]``.
            return_class_token: Return pairs of places and pooled map ``[B, D]``.
            norm: Apply the final norm to the last stage; the others have none.
        """
        maps = self._maps(x)
        wanted = range(len(maps) - n, len(maps)) if isinstance(n, int) else n
        if any(not 0 <= index < len(maps) for index in wanted):
            raise ValueError(f"stages {list(wanted)} asked for, but the model has stages 0 to {len(maps) - 1}")
        found: list[Tensor | tuple[Tensor, Tensor]] = []
        for index in wanted:
            rows, columns = maps[index].shape[-2:]
            places = maps[index].flatten(2).mT
            pooled = places.mean(dim=1)
            if norm and index == len(maps) - 1:
                places, pooled = self.norm(places), self.norm(pooled)
            if reshape:
                places = places.mT.reshape(places.shape[0], -1, rows, columns)
            found.append((places, pooled) if return_class_token else places)
        return tuple(found)

    def features(
        self,
        crops: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        patch_indices: Sequence[Tensor | None] | None = None,
        drop_path: float = 0.0,
        generator: torch.Generator | None = None,
        recomputed: float = 0.0,
    ) -> list[CropFeatures]:
        """See ``StudentBackbone.features``: each size of crops by itself; nothing in it is random."""
        del generator
        if drop_path or any(mask is not None for mask in masks or ()):
            raise ValueError("a ConvNeXt learns in distillation, without masks and stochastic depth")
        found = []
        for number, crop in enumerate(crops):
            last = self._maps(crop, recomputed=round(recomputed * self.n_blocks))[-1]
            grid = (last.shape[-2], last.shape[-1])
            places = last.flatten(2).mT
            pooled = self.norm(places.mean(dim=1))
            if patch_indices is not None:
                places = places.flatten(0, 1)
                indices = patch_indices[number]
                places = places[:0] if indices is None else places.index_select(0, indices)
            found.append(CropFeatures(pooled, self.norm(places), grid))
        return found

    @property
    def pooling(self) -> Pooling:
        """What its embedding is."""
        return self.config.pooling

    def units(self) -> Sequence[nn.Module]:
        """The blocks of all stages."""
        return [block for stage in self.stages for block in stage.children()]

    def layer_of(self, parameter: str) -> int:
        """Of a parameter: 0 of the stem, i + 1 of block i and the halving before it, ``n_blocks + 1`` of the norm."""
        place = re.search(r"(?:^|\.)(stages|halvings)\.(\d+)\.(\d+)?", parameter)
        if place is None:
            return 0 if parameter.startswith("patch_embed") else self.n_blocks + 1
        kind, stage, block = place.group(1), int(place.group(2)), int(place.group(3) or 0)
        return sum(self.config.depths[: stage + (kind == "halvings")]) + block + 1

    def untrained(self, *, masks: bool, local_crops: bool) -> Iterable[nn.Parameter]:
        """None: every parameter has a part in every feature."""
        del masks, local_crops
        return ()

    def _maps(self, x: Tensor, *, recomputed: int = 0) -> list[Tensor]:
        """The map after each stage, ``[B, D, H, W]``; between the blocks in the precision of the weights."""
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels:
            raise ValueError(f"a batch of shape {tuple(x.shape)}; [B, {config.in_channels}, H, W] is expected")
        if min(x.shape[-2:]) < self.patch_size:
            raise ValueError(
                f"images of {x.shape[-2]} x {x.shape[-1]} pixels have no place in a map of stride {self.patch_size}"
            )
        maps, dtype, done = [], self.norm.weight.dtype, 0
        # Channels last: the linear layers and norms then read memory in order; a fifth faster on a CPU.
        x = x.to(memory_format=torch.channels_last)
        for smaller, stage in zip([self.patch_embed, *self.halvings], self.stages, strict=True):
            x = smaller(x).to(dtype)
            for block in stage.children():
                if done < recomputed and torch.is_grad_enabled():
                    x = recompute(block, x, use_reentrant=False, preserve_rng_state=False)
                else:
                    x = block(x)
                done += 1
            maps.append(x)
        return maps
