"""Low-rank adaptation: the weights stay, a product of two thin matrices is learnt beside each (Hu et al. 2021, LoRA).

Layers compute with ``weight + alpha / rank · b @ a`` wherever they read their weight, so that every way of running a
block works as before. The moving average is a plain backbone that follows the sum: it is what is exported, and there is
nothing left to merge.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dinomill.models import VisionTransformer
from dinomill.models.hardware import autocast
from dinomill.training.config import LoraConfig

# The projections of a block: attention's, and the feed-forward layer's (MLP or SwiGLU).
_LAYERS = ("qkv", "proj", "fc1", "fc2", "w12", "w3")


class LowRank(nn.Module):
    """What is added to a weight ``[out, in]``: nothing at first, since ``b`` is 0."""

    def __init__(self, weight: Tensor, config: LoraConfig) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = config.alpha / config.rank
        self.a = nn.Parameter(torch.empty(config.rank, columns))
        self.b = nn.Parameter(torch.zeros(rows, config.rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight, in fp32 whatever the precision around it."""
        with autocast(weight.device):
            return torch.addmm(weight, self.b, self.a, alpha=self.scale)


def add_lora(backbone: VisionTransformer, config: LoraConfig) -> None:
    """Freeze a backbone but for low-rank additions to the projections of its blocks."""
    backbone.requires_grad_(False)
    layers = [
        layer
        for block in backbone.blocks
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and name.split(".")[-1] in _LAYERS
    ]
    for layer in layers:
        addition = LowRank(layer.weight, config)
        parametrize.register_parametrization(layer, "weight", addition)
