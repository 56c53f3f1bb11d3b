"""The projection head of DINO and iBOT: an MLP to a unit vector, compared with weight-normalised prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinomill.models.config import HeadConfig


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are directions ``weight_v`` times trainable lengths ``weight_g``."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1))
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))

    def weight(self) -> Tensor:
        """The effective weight, ``[out, in]``, differentiable."""
        weight: Tensor = self.weight_v * (self.weight_g / torch.linalg.vector_norm(self.weight_v, dim=1, keepdim=True))
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        return nn.functional.linear(x, self.weight())


class ProjectionHead(nn.Module):
    """in, hidden, hidden, bottleneck with GELU; L2 normalisation; prototypes (Caron et al. 2021).

    A loss that works on tiles of prototypes takes ``bottleneck(x)`` and the last layer's weights instead of calling the
    head.
    """

    def __init__(self, in_dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.bottleneck_dim),
        )
        self.last_layer = WeightNormLinear(config.bottleneck_dim, config.prototypes)
        if not self.last_layer.weight_v.is_meta:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh."""
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.ones_(self.last_layer.weight_g)
        bound = self.config.bottleneck_dim**-0.5
        nn.init.uniform_(self.last_layer.weight_v, -bound, bound, generator=generator)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to unit vectors ``[..., bottleneck]``."""
        x = self.mlp(x)
        # The length is summed in fp32; the official code's floor in fp16 is kept, which cannot hold 1e-12.
        return nn.functional.normalize(x.float(), dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to logits ``[..., prototypes]`` (not yet divided by a temperature)."""
        logits: Tensor = self.last_layer(self.bottleneck(x))
        return logits
