"""AdamW over fused parameter groups, gradient clipping by part, schedules set on it; nothing waits for a device.

But for the scaled steps of fp16, of which each has to be found finite before it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dinomill.training.config import OptimizerConfig
from dinomill.training.loss_scaler import LossScaler
from dinomill.training.parallel import reduced_at_the_end
from dinomill.training.param_groups import fuse, student_multipliers
from dinomill.training.schedules import ScheduleValues
from dinomill.training.self_distillation import SelfDistillation
from dinomill.training.step_batch import StepBatch


def build_optimizer(
    module: SelfDistillation, config: OptimizerConfig, *, adaptation: bool = False
) -> torch.optim.AdamW:
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
            depth=module.student(name).backbone.n_blocks,
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
    batch: StepBatch,
    values: ScheduleValues,
    *,
    clip_gradient: float,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """One whole step on one batch: losses, gradients, clipping, AdamW, moving averages; see ``accumulated_step``."""
    return accumulated_step(
        module, wrapped, optimizer, [batch], values, clip_gradient=clip_gradient, generators=[generator]
    )


def accumulated_step(
    module: SelfDistillation,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[StepBatch],
    values: ScheduleValues,
    *,
    clip_gradient: float,
    generators: Sequence[torch.Generator | None],
    scaler: LossScaler | None = None,
) -> dict[str, Tensor]:
    """One whole step: losses, gradients, clipping, AdamW, moving averages.

    Args:
        module: The module itself.
        wrapped: What a parallel wrapper made of it, or the module.
        optimizer: From ``build_optimizer``.
        batches: The micro-batches of the step, on the module's device; gradients are those of the mean of their losses.
        values: This step's schedule values.
        clip_gradient: Largest norm of a part's gradient; 0 is off.
        generators: For each micro-batch a CPU generator for stochastic depth and position rescaling.
        scaler: For fp16; a step whose gradients overflow is left out.

    Returns:
        Detached scalars on the device: the losses, ``total``, and the gradient norms before clipping; with a scaler,
        ``skipped`` (1 for a step that was left out). Reading them waits for the device; do it now and then.
    """
    count = len(batches)
    targets = module.targets_of_step(batches, values) if count > 1 else [None]
    sums: dict[str, Tensor] = {}
    for index, (batch, generator, known) in enumerate(zip(batches, generators, targets, strict=True)):
        with reduced_at_the_end(wrapped, last=index == count - 1):
            losses: dict[str, Tensor] = wrapped(batch, values, generator, known)
            loss = losses["total"] / count if count > 1 else losses["total"]
            (loss if scaler is None else loss * scaler.scale).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            share = value.detach() / count if count > 1 else value.detach()
            sums[name] = sums[name] + share if name in sums else share
    if scaler is not None:
        scaler.unscale(p.grad for p in module.students.parameters() if p.grad is not None)
    norms = clip_gradients(module, clip_gradient)
    made = scaler is None or scaler.admits(norms.values())
    if made:
        set_schedules(optimizer, values)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if made:
        module.update_averages(values)
    return sums | (norms if scaler is None else _scaled_terms(norms, made, scaler))


def _scaled_terms(norms: dict[str, Tensor], made: bool, scaler: LossScaler) -> dict[str, Tensor]:
    """The norms, finite where the step was left out for them, and whether it was."""
    if not made and not scaler.exhausted:
        norms = {name: torch.zeros_like(norm) for name, norm in norms.items()}
    one = next(iter(norms.values()))
    return norms | {"skipped": torch.full_like(one, float(not made))}
