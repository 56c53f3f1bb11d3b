"""The linear probe: multinomial logistic regression on frozen features, every regularisation of a grid at once.

Features are centred, rotated onto their principal axes and divided by one number, so that a strength of regularisation
means the same for every network. There the Hessian is bounded by a diagonal (Böhning & Lindsay 1988: half the variance
of each axis), which preconditions L-BFGS: tens of iterations instead of thousands on ill-conditioned features. All
strengths share each pass over the features, as one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dinomill.evaluation.lbfgs import minimise
from dinomill.evaluation.protocols.config import LinearProbeConfig
from dinomill.evaluation.working import working

# Logits of a chunk of images for all strengths held at once: 128 MB.
_LOGITS_AT_ONCE = 2**25


@dataclass(frozen=True)
class LinearFit:
    """Classifiers for several strengths G: scores of class c are ``features @ weight[g, :, c] + bias[g, c]``."""

    weight: Tensor  # [G, D, C]
    bias: Tensor  # [G, C]
    loss: Tensor  # [G]: mean cross-entropy + l2 / 2 · |w|², in the scaled features
    iterations: int

    def predict(self, features: Tensor) -> Tensor:
        """The class of every row by every classifier, ``[G, N]``."""
        return torch.stack([(features @ w + b).argmax(dim=1) for w, b in zip(self.weight, self.bias, strict=True)])


@dataclass(frozen=True)
class ProbeResult:
    """What the probe says of the queries, and how it chose."""

    predicted: Tensor  # [Q] int64
    l2: float
    holdout_accuracy: dict[float, float]
    weight: Tensor  # [D, C]
    bias: Tensor  # [C]


def probe(bank: Tensor, labels: Tensor, queries: Tensor, config: LinearProbeConfig, *, seed: int = 0) -> ProbeResult:
    """Choose the strength on a held-out part of the bank, fit the whole bank with it, and classify the queries.

    Args:
        bank: Features ``[B, D]``.
        labels: ``[B]`` int64.
        queries: Features ``[Q, D]``; they and their labels have no part in the choice.
        config: Strengths and limits.
        seed: Of the held-out part, which keeps the classes' shares.
    """
    classes = int(labels.max()) + 1
    held = stratified_holdout(labels, config.holdout, seed=seed)
    grid = fit(bank[~held], labels[~held], classes, config.l2, config)
    right = (grid.predict(bank[held]) == labels[held]).double().mean(dim=1)
    # Equal accuracies: the stronger regularisation, which stands first.
    chosen = config.l2[int(right.argmax())]
    final = fit(bank, labels, classes, [chosen], config)
    choice = dict(zip(config.l2, right.tolist(), strict=True))
    return ProbeResult(final.predict(queries)[0], chosen, choice, final.weight[0], final.bias[0])


def stratified_holdout(labels: Tensor, share: float, *, seed: int) -> Tensor:
    """A mask ``[B]`` of about ``share`` of each class, never all of a class and at least one image in all."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels).tolist():
        members = order[labels.cpu()[order] == label]
        held[members[: min(round(len(members) * share), len(members) - 1)]] = True
    counts = torch.bincount(labels.cpu())
    if not held.any() and int(counts.max()) > 1:  # two or so of each class: the share of a class is none
        held[order[labels.cpu()[order] == int(counts.argmax())][:1]] = True
    if not held.any():
        raise ValueError(f"{len(labels)} labelled images are too few to hold some out")
    return held.to(labels.device)


def fit(features: Tensor, labels: Tensor, classes: int, l2: Sequence[float], config: LinearProbeConfig) -> LinearFit:
    """Fit one classifier for each strength: the minimum of mean cross-entropy + l2 / 2 · |w|² (biases are free).

    Args:
        features: ``[N, D]``, any scale.
        labels: ``[N]`` int64 in [0, classes).
        classes: Number of classes C.
        l2: The strengths.
        config: For the limits of the optimiser.
    """
    axes, rotated, variance = _principal_axes(features.float())
    strengths = torch.as_tensor(l2, dtype=rotated.dtype, device=rotated.device)
    count = len(strengths)
    # The bound of the Hessian, for each strength and axis; the bias sees features of variance 1.
    bound = 0.5 * torch.cat([variance, variance.new_ones(1)]) + torch.cat(
        [strengths[:, None].expand(-1, len(variance)), strengths.new_zeros(count, 1)], dim=1
    )
    scale = bound.rsqrt()[:, :, None]  # [G, P + 1, 1]
    class_sums = _class_sums(rotated, labels, classes)

    def objective(point: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(active), rotated.shape[1] + 1, classes)
        scales, penalty = scale[active], strengths[active]
        weights = point.view(shape) * scales
        loss, gradient = _cross_entropy(rotated, weights, class_sums)
        loss = loss + 0.5 * penalty.double() * weights[:, :-1].double().square().sum(dim=(1, 2))
        gradient[:, :-1] += penalty[:, None, None] * weights[:, :-1]
        return loss, (gradient * scales).flatten(1)

    start = rotated.new_zeros(count, (rotated.shape[1] + 1) * classes)
    what = f"linear probe of {len(features):,} images, {count} strength{'s' if count > 1 else ''}"
    with working(what, config.iterations, "iterations at most", each=start.numel() * len(features)) as advance:
        point, loss, iterations = minimise(
            objective, start, iterations=config.iterations, tolerance=config.tolerance, advance=advance
        )
    weights = point.view(count, -1, classes) * scale
    weight = axes.rotation @ weights[:, :-1]
    bias = weights[:, -1] - axes.mean @ weight
    return LinearFit(weight, bias, loss, iterations)


@dataclass(frozen=True)
class _Axes:
    mean: Tensor  # [D]
    rotation: Tensor  # [D, P]: onto the principal axes, divided by the common scale


def _principal_axes(features: Tensor) -> tuple[_Axes, Tensor, Tensor]:
    """Axes, rotated features ``[N, P]`` of unit total variance, and the variance of each axis ``[P]``."""
    mean = features.mean(dim=0)
    centred = features - mean
    covariance = (centred.T @ centred).double() / len(features)
    variance, vectors = torch.linalg.eigh(covariance)
    total = variance.clamp_min(0).sum()
    # Axes without variance carry nothing that a classifier could use.
    used = variance > total * 1e-9
    if not used.any():  # constant features: only the classes' shares can be learned
        used[-1] = True
    rotation = (vectors[:, used] / total.clamp_min(1e-30).sqrt()).to(features.dtype)
    return _Axes(mean, rotation), centred @ rotation, (variance[used] / total.clamp_min(1e-30)).to(features.dtype)


def _class_sums(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Sums of the features (and of a column of ones) of each class, ``[P + 1, C]``."""
    sums = features.new_zeros(classes, features.shape[1] + 1)
    sums[:, :-1].index_add_(0, labels, features)
    sums[:, -1] = torch.bincount(labels, minlength=classes)
    return sums.T


def _cross_entropy(features: Tensor, weights: Tensor, class_sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy ``[G]`` and its gradient ``[G, P + 1, C]``, over chunks of images.

    The labels' part of both is linear in the weights, hence a product with the sums of each class, made once.
    """
    groups, _, classes = weights.shape
    count = len(features)
    flat = weights.permute(1, 0, 2).reshape(weights.shape[1], -1)
    # sum_i logit[i, label_i] = <class sums, weights>
    loss = -(class_sums.double() * weights.double()).sum(dim=(1, 2))
    gradient = -class_sums.repeat(1, groups)
    for rows in torch.split(features, max(_LOGITS_AT_ONCE // (groups * classes), 1)):
        logits = torch.addmm(flat[-1], rows, flat[:-1]).view(-1, groups, classes)
        normaliser = logits.logsumexp(dim=2, keepdim=True)
        loss += normaliser.double().sum(dim=(0, 2))
        shares = logits.sub_(normaliser).exp_().flatten(1)
        gradient[:-1].addmm_(rows.T, shares)
        gradient[-1] += shares.sum(dim=0)
    return loss / count, (gradient / count).view(-1, groups, classes).permute(1, 0, 2).contiguous()
