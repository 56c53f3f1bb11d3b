"""What a network makes of the monitor's images: embeddings, class tokens, nearest prototypes, some patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from dinomill.models.config import Pooling
from dinomill.models.pooling import join
from dinomill.models.student import CropFeatures
from dinomill.training.losses.prototypes import Prototypes, normalised
from dinomill.training.network import Network, prototypes
from dinomill.training.parallel import World

if TYPE_CHECKING:
    from dinomill.training.monitor_images import Samples

# Whose eyes: what is kept (the average of the first student), that student, or what it learns from.
Who = Literal["average", "student", "teacher"]


class Seen(NamedTuple):
    """What was seen in N images."""

    embedding: Tensor  # [N, D'] pooled as the model says
    classes: Tensor  # [N, D] class tokens
    prototype: Tensor  # [N] int64, the nearest one to each class token
    patches: Tensor  # [M, P, D] patch tokens of the first M images


def see(network: Network, images: Tensor) -> Seen:
    """What a network makes of images ``[N, C, H, W]``; patches of all of them."""
    (seen,) = network.backbone.features([images])
    nearest = nearest_prototype(network.dino_head.bottleneck(seen.cls), prototypes(network.dino_head))
    return Seen(embedding_of(seen, network.backbone.pooling), seen.cls, nearest, seen.patches)


def embedding_of(seen: CropFeatures, pooling: Pooling) -> Tensor:
    """The vector that stands for an image, ``[N, D']``, from its features."""
    return join(seen.cls, seen.patches.mean(dim=1), pooling)


def nearest_prototype(features: Tensor, table: Prototypes) -> Tensor:
    """The prototype with the highest logit of each bottleneck feature: ``[R, D]`` to ``[R]`` int64, tile by tile."""
    best = features.new_full((len(features),), -torch.inf, dtype=torch.float32)
    index: Tensor | None = None
    for tile in table.tiles():
        top, row = (features.float() @ normalised(table.direction[tile], table.gain[tile], torch.float32).T).max(dim=1)
        row = row + tile.start
        index = row if index is None else torch.where(top > best, row, index)
        best = torch.maximum(top, best)
    assert index is not None
    return index


def gather(parts: list[Seen], samples: Samples, world: World, *, dense: int) -> Seen:
    """Put together what all processes saw of a set, on the host; every process must call it.

    Args:
        parts: Of each of this process's batches.
        samples: The set.
        world: The processes.
        dense: Of so many images patches are kept, at most a batch: those of the main process's first one.
    """
    # Class tokens and the prototypes' numbers (below 2^24, exact in fp32) travel with the embeddings.
    rows = [
        torch.cat([seen.embedding.float(), seen.classes.float(), seen.prototype.float()[:, None]], dim=1)
        for seen in parts
    ]
    whole = samples.share.whole(world.gather(torch.cat(rows))).cpu()
    width = parts[0].classes.shape[1]
    embedding, classes, prototype = torch.split(whole, [whole.shape[1] - width - 1, width, 1], dim=1)
    patches = parts[0].patches[: min(dense, samples.share.count)].float().cpu()
    return Seen(embedding, classes, prototype[:, 0].long(), patches)
