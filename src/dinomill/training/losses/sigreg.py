"""SIGReg: features of a batch are to look like draws of a standard normal distribution, in every direction.

Balestriero & LeCun, "LeJEPA", 2025: features are projected onto random directions, and in each the Epps-Pulley
statistic compares their characteristic function with that of the normal distribution. Where nothing else spreads
features (KoLeo) or assignments (Sinkhorn-Knopp), this alone keeps them from collapsing: to one point, a subspace or any
other shape. It costs a product with the directions and a few hundred sines a feature, linear in all sizes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor

from dinomill.models.hardware import autocast
from dinomill.training.losses.config import SigregConfig

# Where characteristic functions are compared: from -5 to 5, of which symmetry leaves the positive half. The weight
# exp(-t^2 / 2) leaves nothing beyond; half of these points are 2% off for features that are twice too wide.
_REACH, _POINTS = 5.0, 17


def sigreg_loss(features: Tensor, directions: Tensor) -> Tensor:
    """The mean Epps-Pulley statistic over directions, in fp32 whatever the precision around it.

    Args:
        features: [B, D], not normalised; the same B on all ranks, whose features are judged together.
        directions: [D, S] unit columns, the same on all ranks.

    Returns:
        A scalar: N · ∫ |φ(t) − exp(−t²/2)|² exp(−t²/2) dt for the N features of all ranks; about 1.06 for normal ones.
    """
    with autocast(features.device):
        t = torch.linspace(0, _REACH, _POINTS, device=features.device)
        normal = torch.exp(-t.square() / 2)
        angles = (features.float() @ directions)[..., None] * t  # [B, S, T]
        real, imaginary = _mean_of_all(angles.cos().mean(0)), _mean_of_all(angles.sin().mean(0))
        difference = ((real - normal).square() + imaginary.square()) * normal
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        return 2 * features.shape[0] * ranks * torch.trapezoid(difference, t, dim=-1).mean()


def sigreg_terms(config: SigregConfig, class_tokens: list[Tensor], batch: int, step: int) -> dict[str, Tensor]:
    """The weighted terms of a step.

    Args:
        config: Weights.
        class_tokens: [2B, D] of the global crops, crop-major, and [nB, D] of the local ones where there are any.
        batch: B.
        step: Draws the directions.
    """
    first, *locals_ = class_tokens
    directions = draw_directions(first.shape[1], config.directions, step, first.device)
    crops = torch.stack([sigreg_loss(crop, directions) for crop in torch.split(first, batch)])
    terms = {"sigreg": config.weight * crops.mean()}
    if config.invariance:
        others = locals_[0] if locals_ else first[:0]
        terms["invariance"] = config.invariance * views_apart(first, others, batch)
    return terms


def draw_directions(dimension: int, count: int, step: int, device: torch.device) -> Tensor:
    """[D, S] random unit columns, others at every step, the same in every process."""
    # Drawn where they are used: nothing is copied, nothing waits. The meta device has no generators.
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(step)
    drawn = torch.randn(dimension, count, generator=generator, device=device)
    unit: Tensor = drawn / torch.linalg.vector_norm(drawn, dim=0, keepdim=True)
    return unit


def views_apart(classes: Tensor, others: Tensor, batch: int) -> Tensor:
    """LeJEPA's other term: the mean squared distance of every crop's features to the mean of its global crops'.

    Args:
        classes: [2B, D] of the global crops, crop-major.
        others: [nB, D] of the local ones.
        batch: B.
    """
    with autocast(classes.device):
        views = torch.cat([classes, others]).float().view(-1, batch, classes.shape[1])
        centre = views[: classes.shape[0] // batch].mean(0)
        return (views - centre).square().mean()


def _mean_of_all(values: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        total: Tensor = dist_nn.all_reduce(values)  # type: ignore[no-untyped-call]
        return total / dist.get_world_size()
    return values
