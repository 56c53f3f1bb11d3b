"""The figures of health, each from features alone: no label is needed for any of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dinomill.arrays import Figures
from dinomill.training.losses.koleo import koleo_loss
from dinomill.vectors.knn import nearest

# Rows of patch features whose effective rank is taken: more change the third digit only.
_ROWS = 4096
# Patches of an image whose similarities are remembered, evenly spaced: 64² numbers an image.
_REMEMBERED = 64


def effective_rank(features: Tensor) -> float:
    """The number of directions that embeddings ``[N, D]`` fill: exp of the entropy of their singular values (RankMe).

    1 when all are the same, at most min(N, D).
    """
    features = features[:_ROWS].double()
    products = features.T @ features if features.shape[1] <= len(features) else features @ features.T
    squares = torch.linalg.eigvalsh(products)
    # What rounding leaves of a zero is its square root too large: as numpy's matrix_rank, below this it is zero.
    floor = squares[-1] * len(squares) * torch.finfo(torch.float64).eps
    values = torch.where(squares > floor, squares, 0).sqrt()
    shares = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(shares * (shares + 1e-12).log()).sum()))


def mean_similarity(features: Tensor) -> float:
    """The mean cosine similarity of two different rows of ``[N, D]``: 1 when all point the same way, or one is all."""
    count = len(features)
    if count < 2:
        return 1.0
    unit = normalize(features.double(), dim=1)
    return float((unit.sum(0).square().sum() - count) / (count * (count - 1)))


def prototypes_in_use(nearest_prototype: Tensor) -> float:
    """How many prototypes ``[N]`` images are nearest to, those alike in size: exp of the entropy of their shares."""
    counts = torch.bincount(nearest_prototype)
    shares = counts[counts > 0].double() / len(nearest_prototype)
    return float(torch.exp(-(shares * shares.log()).sum()))


def agreement(teacher: Tensor, student: Tensor) -> float:
    """The share of images to which two networks, shown different copies, give the same prototype: ``[N]`` each."""
    return float((teacher == student).double().mean())


def koleo(classes: Tensor) -> float:
    """Mean of −log of the distance of class tokens ``[N, D]`` to their nearest neighbour: high where they crowd."""
    return float(koleo_loss(classes))


def copies_found(copies: Tensor, originals: Tensor) -> float:
    """How often the image nearest to an augmented copy is the one that it was made of.

    Args:
        copies: ``[M, D]`` of the first M originals.
        originals: ``[N, D]``.
    """
    _, rows = nearest(copies, originals, 1)
    return float((rows[:, 0] == torch.arange(len(copies))).double().mean())


def patches_found(copies: Tensor, originals: Tensor, places: Figures) -> float:
    """How often the patch of an image nearest to a patch of its copy lies where that one was cut from.

    Within a patch and a half of it in both directions, which by chance happens to at most 9 in N. A patch that the
    original does not show is left out.

    Args:
        copies: ``[B, N, D]`` patch features of augmented copies.
        originals: ``[B, N, D]`` of the plain images.
        places: ``[B, N, 2]`` row and column of the copy's patches in the original, in patches.
    """
    grid = int(originals.shape[1] ** 0.5)
    similarity = normalize(copies.float(), dim=-1) @ normalize(originals.float(), dim=-1).transpose(1, 2)
    chosen = similarity.argmax(dim=2)
    found = torch.stack([chosen // grid, chosen % grid], dim=-1) + 0.5
    wanted = torch.from_numpy(places)
    shown = ((wanted >= 0) & (wanted <= grid)).all(dim=-1)
    right = ((found - wanted).abs() <= 1.5).all(dim=-1)
    return float(right[shown].double().mean()) if shown.any() else float("nan")


def patch_similarities(patches: Tensor) -> Tensor:
    """``[B, n, n]`` cosines between patches of one image, of ``[B, N, D]``; of n ≤ 64 patches, evenly spaced."""
    count = patches.shape[1]
    rows = torch.linspace(0, count - 1, min(count, _REMEMBERED)).round().long()
    unit = normalize(patches[:, rows].float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def likeness(similarities: Tensor) -> float:
    """The mean cosine of two different patches of an image, of ``patch_similarities``: 1 when all are the same."""
    count = similarities.shape[1]
    if count < 2:
        return float("nan")
    total = similarities.double().sum(dim=(1, 2)) - similarities.double().diagonal(dim1=1, dim2=2).sum(dim=1)
    return float((total / (count * (count - 1))).mean())


def drift(now: Tensor, before: Tensor) -> float:
    """How far patch similarities have moved: the root of the mean square of the differences, from 0 to 2."""
    return float((now.double() - before.double()).square().mean().sqrt())


def class_likeness(patches: Tensor, classes: Tensor) -> float:
    """The mean cosine of patches ``[B, N, D]`` and the class tokens ``[M, D]`` of their images, the first B of M.

    Siméoni et al. 2025 (DINOv3, section 4) saw it rise while dense features decayed.
    """
    unit = normalize(classes[: len(patches)].float(), dim=-1)[:, :, None]
    return float((normalize(patches.float(), dim=-1) @ unit).double().mean())
