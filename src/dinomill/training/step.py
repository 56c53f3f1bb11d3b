"""One training step: losses, gradients, clipping, AdamW, moving averages; nothing waits for a device.

A step that meets a number that is not finite changes nothing: neither weights, nor moments, nor averages, nor centres.
That is decided on the device, from the gradients' norms, which are those of all processes: all decide alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dinomill.training.loss_scaler import LossScaler
from dinomill.training.objectives.base import Objective
from dinomill.training.optimizer import clip_gradients, set_schedules
from dinomill.training.parallel import reduced_at_the_end
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step_batch import StepBatch


def train_step(
    module: Objective,
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
    module: Objective,
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
        scaler: For fp16; its scale follows what overflows.

    Returns:
        Detached scalars on the device: the losses, ``total``, the gradient norms before clipping, ``skipped`` (1 for a
        step that changed nothing) and with a scaler ``loss_scale``. Reading them waits for the device.
    """
    centres = module.centres()
    kept = [centre.clone() for centre in centres]
    sums = _gradients(module, wrapped, batches, values, generators, scaler)
    if scaler is not None:
        scaler.unscale(p.grad for p in module.students.parameters() if p.grad is not None)
    norms = clip_gradients(module, clip_gradient)
    skipped = ~torch.isfinite(torch.stack(list(norms.values()))).all()
    set_schedules(optimizer, values)
    # The fused kernels leave everything as it is, the count of steps too, where this is 1.
    optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    module.update_averages(values, unless=skipped)
    for centre, before in zip(centres, kept, strict=True):
        centre.copy_(torch.where(skipped, before, centre))
    terms = sums | norms | {"skipped": skipped.float()}
    return terms if scaler is None else _scaled_terms(terms, norms, skipped, scaler)


def _gradients(
    module: Objective,
    wrapped: nn.Module,
    batches: Sequence[StepBatch],
    values: ScheduleValues,
    generators: Sequence[torch.Generator | None],
    scaler: LossScaler | None,
) -> dict[str, Tensor]:
    """Leave the gradients of the mean loss in the parameters; returns the mean of each term."""
    count = len(batches)
    targets = module.targets_of_step(batches, values) if count > 1 else [None]
    sums: dict[str, Tensor] = {}
    for index, (batch, generator, known) in enumerate(zip(batches, generators, targets, strict=True)):
        with reduced_at_the_end(wrapped, last=index == count - 1):
            losses: dict[str, Tensor] = wrapped(batch, values, generator, known)
            loss = losses["total"] / count if count > 1 else losses["total"]
            loss = loss if scaler is None else loss * scaler.scale
            loss.backward(_seed(losses["total"]))  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            share = value.detach() / count if count > 1 else value.detach()
            sums[name] = sums[name] + share if name in sums else share
    return sums


def _seed(total: Tensor) -> Tensor:
    """What the backward pass begins with: 1, or NaN where the loss is not finite though its gradient might be.

    One process's bad loss so reaches the gradients of all, in the reduction that they make anyway.
    """
    one = torch.ones_like(total)
    return torch.where(torch.isfinite(total.detach()), one, one * torch.nan)


def _scaled_terms(
    terms: dict[str, Tensor], norms: Mapping[str, Tensor], skipped: Tensor, scaler: LossScaler
) -> dict[str, Tensor]:
    """The terms of a scaled step: a mere overflow shows a norm of 0, what has another reason shows it."""
    harmless = skipped & torch.isfinite(terms["total"]) & ~scaler.exhausted
    shown = {name: torch.where(harmless, torch.zeros_like(norm), norm) for name, norm in norms.items()}
    scale = scaler.scale.clone()
    scaler.follow(skipped)
    return terms | shown | {"loss_scale": scale}
