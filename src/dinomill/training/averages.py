"""Moving averages of networks: what teaches, and what is kept."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor, nn


@torch.no_grad()
def move_average(average: nn.Module, source: nn.Module, momentum: float) -> None:
    """Set average to momentum · average + (1 − momentum) · source, all parameters at once; local shards under FSDP2.

    The average follows the weights that the source computes with: with low-rank additions, the sums.
    """
    pairs = [(_local(a), _local(attrgetter(name)(source))) for name, a in average.named_parameters()]
    torch._foreach_lerp_([a for a, _ in pairs], [s for _, s in pairs], 1 - momentum)


def _local(parameter: Tensor) -> Tensor:
    to_local = getattr(parameter, "to_local", None)
    local: Tensor = parameter.detach() if to_local is None else to_local().detach()
    return local
