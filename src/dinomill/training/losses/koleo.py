"""KoLeo: spreads a batch's features by pushing each away from its nearest neighbour.

Kozachenko-Leonenko differential entropy estimator, Sablayrolles et al., "Spreading vectors for similarity
search", ICLR 2019; as weighted in the DINOv2 paper, section 4.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor
from torch.nn.functional import normalize, pairwise_distance

from dinomill.models.hardware import autocast

_EPSILON = 1e-8
# Below this distance two unit vectors differ by fp32 rounding only: the direction between them is noise, and the
# logarithm's gradient (1 / distance) would swamp every other gradient of the step.
_DUPLICATE = 1e-4


def koleo_loss(
    features: Tensor, *, group_size: int | None = None, process_group: dist.ProcessGroup | None = None
) -> Tensor:
    """Mean of −log of the distance to the nearest neighbour, in fp32 whatever the precision around it.

    Args:
        features: [B, D] CLS features before the head; normalised here.
        group_size: Neighbours are sought within groups of this many consecutive images. Larger than B: the groups span
            ranks (B must be equal on all of them). None: the rank's own batch.
        process_group: The ranks that may share a group; None is all.

    Returns:
        A scalar; 0 with zero gradient where an image has no neighbour. Duplicates count, without gradient.
    """
    with autocast(features.device):
        x = normalize(features.float(), eps=_EPSILON, dim=-1)
        if group_size is None or group_size == x.shape[0]:
            return _entropy(x)
        if group_size > x.shape[0] and dist.is_available() and dist.is_initialized():
            x = torch.cat(list(dist_nn.all_gather(x, group=process_group or dist.group.WORLD)))  # type: ignore[no-untyped-call]
        groups = torch.split(x, group_size)
        sizes = [group.shape[0] / x.shape[0] for group in groups]
        return torch.stack([_entropy(group) * size for group, size in zip(groups, sizes, strict=True)]).sum()


def nearest_neighbours(unit_features: Tensor) -> Tensor:
    """Index of each row's nearest other row by dot product: [B, D] → [B]."""
    similarity = unit_features @ unit_features.T
    similarity.fill_diagonal_(-1.0 - _EPSILON)
    return similarity.argmax(dim=1)


def _entropy(x: Tensor) -> Tensor:
    if x.shape[0] < 2:
        return x.sum() * 0.0
    with torch.no_grad():
        neighbours = nearest_neighbours(x)
    distance = pairwise_distance(x, x[neighbours], p=2, eps=_EPSILON)
    distance = torch.where(distance < _DUPLICATE, distance.detach(), distance)
    return -torch.log(distance + _EPSILON).mean()
