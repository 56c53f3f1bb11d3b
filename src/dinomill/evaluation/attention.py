"""Where class tokens look in the images that are shown, kept like features: by weights, images and preprocessing.

<work>/features/<key>.attention-<rows>.npy     [M, heads, h, w] fp16
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dinomill.evaluation.batches import batches
from dinomill.evaluation.features import Extraction, Images, device, key_of
from dinomill.evaluation.kept import attention_path, read_shown
from dinomill.evaluation.networks import Network
from dinomill.evaluation.split_features import Halves
from dinomill.features.backbone import BackboneFeatures
from dinomill.models.attention_maps import class_attention
from dinomill.models.vision_transformer import VisionTransformer
from dinomill.storage.atomic import atomic_file

_AT_ONCE = 8  # images; large ones have many patches


def shown_attention(network: Network, images: Images, rows: Sequence[int], settings: Extraction) -> Halves | None:
    """Attention of the last block's class token to every patch, ``[M, heads, h, w]``, in float32 whatever is measured.

    Args:
        network: Whose.
        images: The split.
        rows: Of the images that are shown.
        settings: Where it is kept.

    Returns:
        None for a network without: a ConvNeXt, a program of another runtime, raw pixels.
    """
    path = attention_path(settings.folder, key_of(network, images, settings), rows)
    if path.exists():
        return read_shown(path)
    target = device()
    forward = network.build(target)
    if not isinstance(forward, BackboneFeatures) or not isinstance(forward.model, VisionTransformer):
        return None
    chosen = replace(images, paths=[images.paths[row] for row in rows])
    found = [
        class_attention(forward.model, batch.to(target)).half().cpu().numpy()
        for batch in batches(chosen.paths, network.preprocessing, _AT_ONCE)
    ]
    maps: Halves = np.concatenate(found)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, maps, allow_pickle=False)
    return maps
