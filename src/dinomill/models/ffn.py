"""The feed-forward layers of a transformer block."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear, GELU (exact), Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return y


class SwiGlu(nn.Module):
    """``w3(silu(x1) * x2)``, where ``x1`` and ``x2`` are the halves of one packed projection (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        gate, value = torch.chunk(self.w12(x), 2, dim=-1)
        y: Tensor = self.w3(nn.functional.silu(gate) * value)
        return y
