"""Moving averages of networks: what teaches, and what is kept."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor, nn


@torch.no_grad()
def move_average(average: nn.Module, source: nn.Module, momentum: float, *, unless: Tensor | None = None) -> None:
    """Set average to momentum · average + (1 − momentum) · source, all parameters at once; local shards under FSDP2.

    The average follows the weights that the source computes with: with low-rank additions, the sums.

    Args:
        average: What is moved.
        source: Where to.
        momentum: How much of the average stays.
        unless: Bool scalar on the device; nothing moves where it is set.
    """
    pairs = [(_local(a), _local(attrgetter(name)(source))) for name, a in average.named_parameters()]
    averages, sources = [a for a, _ in pairs], [s for _, s in pairs]
    if unless is None:
        torch._foreach_lerp_(averages, sources, 1 - momentum)
    else:
        # A weight on the device: the same arithmetic to the bit, and the host need not know.
        weight = torch.where(unless, 0.0, 1 - momentum).to(torch.float32)
        torch._foreach_lerp_(averages, sources, [weight] * len(averages))


def _local(parameter: Tensor) -> Tensor:
    to_local = getattr(parameter, "to_local", None)
    local: Tensor = parameter.detach() if to_local is None else to_local().detach()
    return local
