"""Loss scaling for fp16, whose gradients vanish below 6e-8 (Micikevicius et al. 2018, "Mixed precision training").

The loss is multiplied by a scale before the backward pass and the gradients are divided by it afterwards. A step whose
gradients are not finite is left out and the scale halved; after many steps without one it is doubled.
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
_SMALLEST = 1.0


class LossScaler:
    """The scale, and how often a step was left out. The gradients' norms, which are measured anyway, decide.

    Args:
        scale: To begin with.
        growth_interval: Steps in a row without an overflow after which the scale is doubled.
    """

    def __init__(self, scale: float = _INITIAL, growth_interval: int = _GROWTH_INTERVAL) -> None:
        self.scale = scale
        self.skipped = 0
        self._good = 0
        self._growth_interval = growth_interval

    def unscale(self, gradients: Iterable[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        found = list(gradients)
        if found:
            torch._foreach_mul_(found, 1 / self.scale)

    def admits(self, norms: Iterable[Tensor]) -> bool:
        """Whether a step with gradients of these norms is to be made; the scale follows. Waits for the device."""
        if bool(torch.isfinite(torch.stack(list(norms))).all()):
            self._good += 1
            if self._good == self._growth_interval:
                self.scale, self._good = 2 * self.scale, 0
            return True
        self.scale, self._good, self.skipped = self.scale / 2, 0, self.skipped + 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether halving no longer helps: training has diverged."""
        return self.scale < _SMALLEST

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "good": self._good, "skipped": self.skipped}

    def load(self, state: dict[str, Any] | None) -> None:
        """Continue from a checkpoint's; None is a beginning."""
        if state is not None:
            self.scale, self._good, self.skipped = state["scale"], state["good"], state["skipped"]
