"""L-BFGS for many independent problems at once, which share the cost of each evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MEMORY = 10
_ARMIJO = 1e-4
_HALVINGS = 20

# Takes points [A, P] of the problems `active` [A] int64; returns losses [A] float64 and gradients [A, P].
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    iterations: int,
    tolerance: float,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Tensor, Tensor, int]:
    """Minimise G problems of P unknowns each (Nocedal & Wright 2006, algorithm 7.4, with backtracking).

    The variables should be scaled so that the Hessian is about the identity: the first step is the bare gradient's.

    Args:
        objective: Losses and gradients of some of the problems.
        start: ``[G, P]``.
        iterations: At most.
        tolerance: A problem ends when its gradient's norm is below this share of its first one, or when no step helps.
        advance: Told of every iteration.

    Returns:
        The points ``[G, P]``, their losses ``[G]`` (float64), and the iterations done.
    """
    point = start.clone()
    active = torch.arange(len(point), device=point.device)
    loss, gradient = objective(point, active)
    enough = tolerance * gradient.norm(dim=1).clamp_min(1e-12)
    history: list[tuple[Tensor, Tensor]] = []
    done = 0
    while done < iterations and len(active):
        done += 1
        advance(1)
        direction = _direction(gradient[active], [(s[active], y[active]) for s, y in history])
        slope = (direction * gradient[active]).sum(dim=1)
        moved, step, new_loss, new_gradient = _backtrack(objective, active, point, loss, direction, slope)
        difference = new_gradient - gradient[active]
        # Where curvature is not positive, or nothing moved, a pair of zeros leaves the problem's estimate as it is.
        sound = ((step * difference).sum(dim=1) > 1e-10 * step.norm(dim=1) * difference.norm(dim=1)) & moved
        pair = (torch.zeros_like(point), torch.zeros_like(point))
        pair[0][active], pair[1][active] = step * sound[:, None], difference * sound[:, None]
        history = [*history[-_MEMORY + 1 :], pair]
        point[active] += step
        loss[active], gradient[active] = new_loss, new_gradient
        active = active[moved & (new_gradient.norm(dim=1) > enough[active])]
    return point, loss, done


def _direction(gradient: Tensor, history: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion for every problem, ``[A, P]``."""
    q = -gradient
    passed = []
    for s, y in reversed(history):
        curvature = (s * y).sum(dim=1)
        rho = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-38), torch.zeros_like(curvature))
        alpha = rho * (s * q).sum(dim=1)
        q = q - alpha[:, None] * y
        passed.append((rho, alpha))
    if history:
        s, y = history[-1]
        ratio = (s * y).sum(dim=1) / (y * y).sum(dim=1).clamp_min(1e-38)
        q = q * torch.where(ratio > 0, ratio, torch.ones_like(ratio))[:, None]
    for (s, y), (rho, alpha) in zip(history, reversed(passed), strict=True):
        q = q + (alpha - rho * (y * q).sum(dim=1))[:, None] * s
    return q


def _backtrack(
    objective: Objective, active: Tensor, point: Tensor, loss: Tensor, direction: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve each problem's step until its loss falls enough.

    Returns:
        Whether each moved ``[A]``, its step ``[A, P]`` (zero where nothing helped), its new loss and gradient.
    """
    length = torch.ones_like(slope)
    step = direction.clone()
    new_loss, new_gradient = objective(point[active] + step, active)
    for _ in range(_HALVINGS):
        # Losses are exact to single precision only; a rise within that is none.
        limit = loss[active] + _ARMIJO * (length * slope).double() + 1e-7 * loss[active].abs()
        failed = (new_loss > limit).nonzero()[:, 0]
        if not len(failed):
            break
        length[failed] *= 0.5
        step[failed] = length[failed, None] * direction[failed]
        new_loss[failed], new_gradient[failed] = objective(point[active[failed]] + step[failed], active[failed])
    return new_loss < loss[active], step, new_loss, new_gradient
