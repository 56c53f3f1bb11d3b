"""Many linear classifiers trained at once by SGD on cached features: every head of a grid in a few large products.

Heads differ in their learning rate and in the columns of the features that they see. Those that see the same columns
share one product; a step of all of them costs as much as its arithmetic, and nothing is launched a head at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dinomill.evaluation.working import working

# Weights at the start, as in DINOv2's linear evaluation.
_STD = 0.01


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast.

    Args:
        steps: Of SGD.
        batch_size: Rows in each.
        momentum: Of SGD.
        seed: Of the first weights and of the order of the rows.
    """

    steps: int
    batch_size: int
    momentum: float
    seed: int


@dataclass(frozen=True)
class Heads:
    """Classifiers of some columns, for several rates G."""

    columns: slice
    weight: Tensor  # [D, G, C]
    bias: Tensor  # [G, C]

    def predict(self, features: Tensor) -> Tensor:
        """The class of every row by every head, ``[G, N]``; -1 by a head that diverged."""
        rates, classes = self.bias.shape
        found = []
        for rows in torch.split(features[:, self.columns], 8192):
            logits = torch.addmm(self.bias.flatten(), rows, self.weight.flatten(1)).view(-1, rates, classes)
            found.append(logits.argmax(dim=2).masked_fill(~torch.isfinite(logits).all(dim=2), -1))
        return torch.cat(found).T


def train(
    features: Tensor, labels: Tensor, classes: int, inputs: Sequence[slice], rates: Sequence[float], how: Schedule
) -> list[Heads]:
    """Train a head for every input and rate: cross-entropy, SGD with momentum, a cosine down to zero.

    Args:
        features: ``[N, D]``.
        labels: ``[N]`` int64.
        classes: Number of classes C.
        inputs: Columns that heads see.
        rates: Learning rates, of the batch as it is.
        how: Steps and batches.

    Returns:
        One entry an input, with a head for each rate. Heads do not touch each other: each ends where it would alone.
    """
    heads = [_start(features, columns, len(rates), classes, how.seed) for columns in inputs]
    moments = [(torch.zeros_like(one.weight), torch.zeros_like(one.bias)) for one in heads]
    own = torch.as_tensor(rates, dtype=features.dtype, device=features.device)[:, None]  # [G, 1]
    each = how.batch_size * sum(one.weight.numel() for one in heads)
    with working(f"linear heads, {len(inputs) * len(rates)} at once", how.steps, "steps", each=each) as advance:
        for step, rows in enumerate(batches(len(features), how)):
            batch, truth = features[rows.to(features.device)], labels[rows.to(labels.device)]
            rate = own * (0.5 * (1 + math.cos(math.pi * step / how.steps)))
            for one, moment in zip(heads, moments, strict=True):
                _step(one, moment, batch[:, one.columns], truth, rate, how.momentum)
            advance(1)
    return heads


def batches(count: int, how: Schedule) -> Iterator[Tensor]:
    """Rows of every step: all rows in a new order each time, what does not fill a batch is left out."""
    generator = torch.Generator().manual_seed(how.seed)
    size = min(how.batch_size, count)
    done = 0
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            if done == how.steps:
                return
            done += 1
            yield order[start : start + size]


def first_weights(dim: int, classes: int, seed: int) -> Tensor:
    """The weights ``[D, C]`` that every head of so many columns starts from."""
    return _STD * torch.randn(dim, classes, generator=torch.Generator().manual_seed(seed))


def _start(features: Tensor, columns: slice, rates: int, classes: int, seed: int) -> Heads:
    dim = features[:1, columns].shape[1]
    weight = first_weights(dim, classes, seed)[:, None].expand(-1, rates, -1).to(features, copy=True)
    return Heads(columns, weight.contiguous(), features.new_zeros(rates, classes))


def _step(
    heads: Heads, moment: tuple[Tensor, Tensor], batch: Tensor, truth: Tensor, rate: Tensor, momentum: float
) -> None:
    """One step of all heads of an input; the gradient of cross-entropy is the shares minus the truth."""
    rates, classes = heads.bias.shape
    # Rows last: the shares of few classes are then computed for many rows at a time.
    logits = torch.addmm(heads.bias.flatten(), batch, heads.weight.flatten(1)).T.contiguous()
    error = logits.view(rates, classes, -1).softmax(dim=1)
    error[:, truth, torch.arange(len(batch), device=batch.device)] -= 1
    error = error.flatten(0, 1).div_(len(batch))
    moment[0].flatten(1).mul_(momentum).addmm_(batch.T, error.T)
    moment[1].flatten().mul_(momentum).add_(error.sum(dim=1))
    heads.weight.addcmul_(moment[0], rate, value=-1)
    heads.bias.addcmul_(moment[1], rate, value=-1)
