"""AdamW over fused parameter groups, gradient clipping by part, schedules set on it; nothing waits for a device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dinomill.training.config import OptimizerConfig
from dinomill.training.param_groups import fuse, student_multipliers
from dinomill.training.schedules import ScheduleValues
from dinomill.training.self_distillation import SelfDistillation


def build_optimizer(module: SelfDistillation, config: OptimizerConfig) -> torch.optim.AdamW:
    """An optimiser for all students of a module; build it after parallel wrappers replaced the parameters."""
    pairs = [
        pair
        for name in module.students
        for pair in student_multipliers(
            module.student(name),
            depth=module.student(name).backbone.n_blocks,
            layerwise_decay=config.layerwise_decay,
            patch_embed=config.patch_embed_multiplier,
        )
    ]
    return torch.optim.AdamW(fuse(pairs), lr=0.0, betas=config.betas, eps=config.epsilon, fused=True)


def set_schedules(optimizer: torch.optim.Optimizer, values: ScheduleValues) -> None:
    """Set every group's learning rate and weight decay for a step."""
    for group in optimizer.param_groups:
        rate = values.last_layer_learning_rate if group["last_layer"] else values.learning_rate
        group["lr"] = rate * group["lr_multiplier"]
        group["weight_decay"] = values.weight_decay * group["wd_multiplier"]


@torch.no_grad()
def clip_gradients(module: SelfDistillation, limit: float) -> dict[str, Tensor]:
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


def train_step(
    module: SelfDistillation,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: object,
    values: ScheduleValues,
    *,
    clip_gradient: float,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """One whole step: losses, gradients, clipping, AdamW, moving averages.

    Args:
        module: The module itself.
        wrapped: What a parallel wrapper made of it, or the module.
        optimizer: From ``build_optimizer``.
        batch: A ``StepBatch`` on the module's device.
        values: This step's schedule values.
        clip_gradient: Largest norm of a part's gradient; 0 is off.
        generator: A CPU generator for stochastic depth and position rescaling.

    Returns:
        Detached scalars on the device: the losses, ``total``, and the gradient norms before clipping. Reading them
        waits for the device; do it now and then.
    """
    losses: dict[str, Tensor] = wrapped(batch, values, generator)
    losses["total"].backward()  # type: ignore[no-untyped-call]
    norms = clip_gradients(module, clip_gradient)
    set_schedules(optimizer, values)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    module.update_averages(values)
    return {name: loss.detach() for name, loss in losses.items()} | norms
