"""Loss scaling for fp16, whose gradients vanish below 6e-8 (Micikevicius et al. 2018, "Mixed precision training").

The loss is multiplied by a scale before the backward pass and the gradients are divided by it afterwards. A step whose
gradients are not finite is left out and the scale halved; after many steps without one it is doubled. All of it stays
on the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# A sixteenth of the usual: the prototypes' gradient sums over all rows of a batch, and overflows first.
_INITIAL = 2.0**12
_GROWTH_INTERVAL = 2000
# Below this, nothing was left to gain by halving: the gradients are not finite for another reason.
SMALLEST = 1.0


class LossScaler:
    """The scale, and how often a step was left out. The gradients' norms, which are measured anyway, decide.

    Args:
        scale: To begin with.
        growth_interval: Steps in a row without an overflow after which the scale is doubled.
        device: Of the loss.

    Attributes:
        scale: fp32 scalar on the device.
    """

    def __init__(
        self,
        scale: float = _INITIAL,
        growth_interval: int = _GROWTH_INTERVAL,
        device: torch.device | str = "cpu",
    ) -> None:
        self.scale = torch.tensor(scale, dtype=torch.float32, device=device)
        self._good = torch.zeros((), dtype=torch.int64, device=device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._growth_interval = growth_interval

    def unscale(self, gradients: Iterable[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        found = list(gradients)
        if found:
            # A power of two: its reciprocal is exact.
            torch._foreach_mul_(found, self.scale.reciprocal())

    def follow(self, skipped: Tensor) -> None:
        """Let the scale follow a step that was made, or skipped (bool scalar on the device)."""
        good = torch.where(skipped, 0, self._good + 1)
        grown = good == self._growth_interval
        factor = torch.where(skipped, 0.5, torch.where(grown, 2.0, 1.0))
        self.scale.mul_(factor)
        self._good.copy_(torch.where(grown, 0, good))
        self._skipped.add_(skipped)

    @property
    def exhausted(self) -> Tensor:
        """Whether halving no longer helps (bool scalar on the device): the gradients are bad for another reason."""
        return self.scale < SMALLEST

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. Waits for the device."""
        return {"scale": float(self.scale), "good": int(self._good), "skipped": int(self._skipped)}

    def load(self, state: dict[str, Any] | None) -> None:
        """Continue from a checkpoint's; None is a beginning."""
        if state is not None:
            self.scale.fill_(state["scale"])
            self._good.fill_(state["good"])
            self._skipped.fill_(state["skipped"])
