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
from dinomill.training.losses.config import LossConfig
from dinomill.training.losses.dino import GLOBAL_CROPS

_EPSILON = 1e-8
# Below this distance two unit vectors differ by fp32 rounding only: the direction between them is noise, and the
# logarithm's gradient (1 / distance) would swamp every other gradient of the step.
_DUPLICATE = 1e-4


def koleo_loss(features: Tensor, *, group_size: int | None = None) -> Tensor:
    """Mean of −log of the distance to the nearest neighbour, in fp32 whatever the precision around it.

    Args:
        features: [B, D] CLS features before the head; normalised here.
        group_size: Neighbours are sought within groups of this many consecutive images. Larger than B: the groups span
            ranks (B must be equal on all of them). None: the rank's own batch.

    Returns:
        A scalar, the mean over this rank's images: 0 with zero gradient where one has no neighbour. Duplicates count,
        without gradient.
    """
    with autocast(features.device):
        x = normalize(features.float(), eps=_EPSILON, dim=-1)
        count, first, others = x.shape[0], 0, x
        if group_size is None or group_size == count:
            return _entropy(x, x, None)
        if group_size > count and dist.is_available() and dist.is_initialized():
            others = torch.cat(list(dist_nn.all_gather(x)))  # type: ignore[no-untyped-call]
            first = dist.get_rank() * count
        # Only the groups that this rank's own images are in: what is left does not grow with the number of ranks.
        begin = first // group_size * group_size
        end = min(-(-(first + count) // group_size) * group_size, others.shape[0])
        place = torch.arange(begin, end, device=x.device) // group_size
        mine = slice(first - begin, first - begin + count)
        return _entropy(x, others[begin:end], (place[mine, None] != place, mine.start))


def koleo_terms(config: LossConfig, classes: Tensor) -> Tensor:
    """The weighted loss of both global crops, whose class tokens are [2B, D], crop-major."""
    terms = [koleo_loss(crop, group_size=config.koleo_group) for crop in classes.chunk(GLOBAL_CROPS)]
    return config.koleo_weight * torch.stack(terms).sum()


def nearest_neighbours(unit_features: Tensor) -> Tensor:
    """Index of each row's nearest other row by dot product: [B, D] → [B]."""
    similarity = unit_features @ unit_features.T
    similarity.fill_diagonal_(-1.0 - _EPSILON)
    return similarity.argmax(dim=1)


def _entropy(x: Tensor, others: Tensor, groups: tuple[Tensor, int] | None) -> Tensor:
    """Mean over the rows of x [B, D]; groups: which of the others are strangers [B, N], and where x begins there."""
    if others.shape[0] < 2:
        return x.sum() * 0.0
    with torch.no_grad():
        if groups is None:
            neighbours = nearest_neighbours(x)
        else:
            strangers, start = groups
            similarity = (x @ others.T).masked_fill_(strangers, -2.0)
            similarity.diagonal(start).fill_(-1.0 - _EPSILON)
            neighbours = similarity.argmax(dim=1)
    distance = pairwise_distance(x, others[neighbours], p=2, eps=_EPSILON)
    distance = torch.where(distance < _DUPLICATE, distance.detach(), distance)
    terms = -torch.log(distance + _EPSILON)
    if groups is not None:
        # Alone in its group, at the end: it was given itself.
        terms = torch.where(groups[0].sum(dim=1) < others.shape[0] - 1, terms, terms * 0.0)
    return terms.mean()
