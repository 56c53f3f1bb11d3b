"""AdamW over fused parameter groups, gradient clipping by part, schedules set on it; nothing waits for a device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dinomill.training.config import OptimizerConfig
from dinomill.training.objectives.base import Objective
from dinomill.training.param_groups import fuse, student_multipliers
from dinomill.training.schedules import ScheduleValues


def build_optimizer(module: Objective, config: OptimizerConfig, *, adaptation: bool = False) -> torch.optim.AdamW:
    """An optimiser for all students of a module; build it after parallel wrappers replaced the parameters.

    Args:
        module: The students.
        config: AdamW's constants.
        adaptation: Whether the backbone has a rate of its own, and begins later than the heads.
    """
    pairs = [
        pair
        for name in module.students
        for pair in student_multipliers(
            module.student(name),
            module.student(name).backbone,
            layerwise_decay=config.layerwise_decay,
            patch_embed=config.patch_embed_multiplier,
        )
    ]
    groups = fuse(pairs)
    if adaptation:
        inner = {id(p) for name in module.students for p in module.student(name).backbone.parameters()}
        heads, backbone = ([pair for pair in pairs if (id(pair[0]) in inner) is part] for part in (False, True))
        groups = [*fuse(heads), *({**group, "backbone": True} for group in fuse(backbone))]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.epsilon, fused=True)
    if adaptation:
        _begin(optimizer)
    return optimizer


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter its state now: a checkpoint from before the backbone's first step is then like any other."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)


def set_schedules(optimizer: torch.optim.Optimizer, values: ScheduleValues) -> None:
    """Set every group's learning rate and weight decay for a step."""
    for group in optimizer.param_groups:
        rate = values.last_layer_learning_rate if group["last_layer"] else values.learning_rate
        if values.backbone_rate is not None and group.get("backbone"):
            rate *= values.backbone_rate
        group["lr"] = rate * group["lr_multiplier"]
        group["weight_decay"] = values.weight_decay * group["wd_multiplier"]


@torch.no_grad()
def clip_gradients(module: Objective, limit: float) -> dict[str, Tensor]:
    """Scale the gradients of each part of each student so that its norm is at most `limit`.

    Returns:
        The norms before clipping: ``gradient_norm/<part>``, with the student's name in front if there are several.
    """
    norms = {}
    for name in module.students:
        for part, child in module.student(name).parts().items():
            gradients = [p.grad for p in child.parameters() if p.grad is not None]
            if not gradients:
                continue
            norm = gradient_norm(gradients)
            if limit > 0:
                # As the official code: the small constant keeps the factor below 1 where it clips at all.
                torch._foreach_mul_(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0))
            norms[(f"{name}/" if len(module.students) > 1 else "") + f"gradient_norm/{part}"] = norm
    return norms


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all gradients together; over all shards where they are sharded."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
    full = getattr(norm, "full_tensor", None)
    whole: Tensor = norm if full is None else full()
    return whole
