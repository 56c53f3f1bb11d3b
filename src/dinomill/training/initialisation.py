"""Weights to start from when there are none: what the configuration says beyond the official code's draw.

A random projection of patches passes them on in proportion to their energy, which in images is nearly all in low
frequencies, and few steps do not undo that. Whitened, every direction in which patches differ starts with the same
weight (Coates & Ng 2012; Krizhevsky 2009, appendix).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from dinomill.images.loader import TrainingLoader
from dinomill.models import VisionTransformer
from dinomill.models.backbones import Backbone
from dinomill.training.job import TrainingJob

# Crops whose patches are looked at: images at most, in batches of so many.
_IMAGES, _BATCH = 1024, 64
# Directions of less variance than this share of the largest are amplified less: they are noise and rounding.
_FLOOR = 1e-3


def initialise(backbone: Backbone, job: TrainingJob, name: str) -> None:
    """Draw again what the job wants drawn otherwise; the same weights in every process.

    Args:
        backbone: Freshly drawn.
        job: Its seed, its dataset and its crops decide.
        name: Of the student, in ``job.models``.
    """
    how = (job.initialisation or {}).get(name)
    if how is None:
        return
    random = _generator(job.recipe.seed, name)
    with torch.no_grad():
        if how.linear_init == "lecun_normal":
            lecun_normal(backbone, random)
        if how.patch_init == "whitened":
            whiten(backbone, *patch_statistics(job, first_layer(backbone).kernel_size[0]), random)


def lecun_normal(backbone: Backbone, random: torch.Generator) -> None:
    """Draw the weights of every linear layer with a standard deviation of 1/√fan_in (LeCun et al. 1998).

    The official 0.02 is that for a width of 2,500; narrow blocks start far below it and hardly change their input.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5, generator=random)


def first_layer(backbone: Backbone) -> nn.Conv2d:
    """What sees the pixels, patch by patch: the patch embedding, or the stem of a ConvNeXt."""
    if isinstance(backbone, VisionTransformer):
        return backbone.patch_embed.proj
    stem = backbone.patch_embed.get_submodule("conv")
    assert isinstance(stem, nn.Conv2d)
    return stem


def whiten(backbone: Backbone, mean: Tensor, covariance: Tensor, random: torch.Generator) -> None:
    """Set the first layer to a random rotation of whitened patches.

    Args:
        backbone: Whose first layer is set.
        mean: Of the patches, ``[P]``, channels first as the embedding sees them.
        covariance: ``[P, P]``.
        random: Draws the rotation.
    """
    proj = first_layer(backbone)
    variances, directions = torch.linalg.eigh(covariance.double())
    # An eigenvector's sign is the library's choice: the largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    directions = directions * largest.sign()
    whitening = (directions / (variances + _FLOOR * variances[-1]).clamp(min=1e-12).sqrt()).T
    rotation = torch.empty(proj.out_channels, len(mean), dtype=torch.float64)
    nn.init.orthogonal_(rotation, generator=random)
    weight = rotation @ whitening
    proj.weight.copy_(weight.view_as(proj.weight))
    assert proj.bias is not None
    proj.bias.copy_(-weight @ mean.double())


def patch_statistics(job: TrainingJob, patch: int) -> tuple[Tensor, Tensor]:
    """Mean ``[P]`` and covariance ``[P, P]`` of the patches of the first global crops that the job would see.

    Args:
        job: Its dataset, crops and seed; how many processes share it does not matter.
        patch: Side of a patch, pixels.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    with TrainingLoader(
        job.dataset,
        crops=job.recipe.crops.model_copy(update={"local_crops": 0}),
        masking=job.recipe.masking,
        loader=job.runtime.loader,
        patch_size=patch,
        batch_size=_BATCH,
        seed=job.recipe.seed,
        steps=_IMAGES // _BATCH,
        mean=job.mean,
        std=job.std,
    ) as loader:
        for batch in loader:
            seen = patches(batch.global_crops, patch).double()
            count += len(seen)
            total, products = total + seen.sum(dim=0), products + seen.T @ seen
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)


def patches(images: Tensor, side: int) -> Tensor:
    """All patches of images ``[B, C, H, W]`` as rows ``[B · N, C · side²]``."""
    cut = images.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/initialisation/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
