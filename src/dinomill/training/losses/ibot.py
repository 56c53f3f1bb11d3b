"""iBOT: the student's masked patches against the teacher's view of the same patches.

Zhou et al., iBOT, 2022; as in the DINOv2 code every image weighs the same, whatever the number of its masked patches.
"""

from __future__ import annotations

from torch import Tensor

from dinomill.training.centering import Targets
from dinomill.training.losses.cross_entropy import CrossEntropyOptions, projected_cross_entropy
from dinomill.training.losses.prototypes import Prototypes


def ibot_loss(
    features: Tensor,
    prototypes: Prototypes,
    targets: Targets,
    weights: Tensor,
    *,
    images: int,
    options: CrossEntropyOptions,
) -> Tensor:
    """Weighted cross-entropy of masked patches.

    Args:
        features: [M, D] student bottleneck features of the masked patches.
        prototypes: The student head's last layer.
        targets: [M, K] the teacher's assignments of the same patches.
        weights: [M] 1 / (masked patches of the image); 0 for padding.
        images: Global crops of the batch, masked or not: 2B.
        options: Temperature, precision, memory.

    Returns:
        A scalar.
    """
    mass = features.new_ones(features.shape[0]).float()
    rows = projected_cross_entropy(features, prototypes, targets, mass=mass, options=options)
    return (rows * weights).sum() / images
