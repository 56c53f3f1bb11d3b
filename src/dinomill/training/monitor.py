"""Is it learning? Every so many steps: the spread of the embeddings, kNN accuracy where there are labels, a verdict.

A self-supervised loss says little: it can fall while the features collapse, and rise while they improve. What is
watched instead is the effective rank of the embeddings (Garrido et al. 2023, RankMe), how alike any two of them are,
and, given labelled images, the accuracy of their nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dinomill.errors import DinomillError
from dinomill.training.config import MonitorConfig
from dinomill.vectors.knn import knn_accuracy

_NEIGHBOURS = 10  # few: the bank has a few thousand images at most


class CollapseError(DinomillError):
    """The features no longer tell images apart."""


class DivergedError(DinomillError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Reading:
    """One look at the teacher."""

    effective_rank: float
    similarity: float
    knn: float | None

    @property
    def measure(self) -> tuple[str, float]:
        """What the best checkpoint is chosen by: accuracy where there are labels, else effective rank."""
        return ("effective_rank", self.effective_rank) if self.knn is None else ("knn", self.knn)

    def row(self) -> dict[str, float]:
        """The figures, by the names under which they are recorded."""
        figures = {"effective_rank": self.effective_rank, "similarity": self.similarity}
        return figures if self.knn is None else {**figures, "knn": self.knn}

    def __str__(self) -> str:
        text = f"effective rank {self.effective_rank:.1f}, similarity {self.similarity:.3f}"
        return text if self.knn is None else f"kNN {self.knn:.1%}, {text}"


@dataclass(frozen=True)
class Samples:
    """Images ready for the network; held in memory in uint8 or float as the loader gives them."""

    images: Tensor  # [N, C, H, W]
    labels: Tensor | None = None  # [N] int64


class Monitor:
    """Measures the teacher and judges.

    Args:
        config: Limits.
        embed: Images ``[N, C, H, W]`` to embeddings ``[N, D]`` on the host; under FSDP every process must call it.
        unlabelled: Images of the dataset; None when it is never due.
        labelled: Labelled images that are never trained on, already shuffled; None for none.
    """

    def __init__(
        self,
        config: MonitorConfig,
        embed: Callable[[Tensor], Tensor],
        unlabelled: Samples | None,
        labelled: Samples | None,
    ) -> None:
        self._config = config
        self._embed = embed
        self._unlabelled = unlabelled
        self._labelled = labelled
        self._collapsed = 0
        self._first: Reading | None = None

    def due(self, step: int, last: bool) -> bool:
        """Whether to look after this many steps."""
        return self._config.every > 0 and (step % self._config.every == 0 or last)

    def read(self) -> Reading:
        """Look at the teacher now; only where it can be due."""
        assert self._unlabelled is not None
        features = self._embed(self._unlabelled.images)
        accuracy = None
        if self._labelled is not None and self._labelled.labels is not None:
            queries = max(len(self._labelled.labels) // 5, 1)
            embedded = self._embed(self._labelled.images)
            labels = self._labelled.labels
            bank, bank_labels = embedded[queries:], labels[queries:]
            by_k = knn_accuracy(embedded[:queries], labels[:queries], bank, bank_labels, ks=(_NEIGHBOURS,))
            (accuracy,) = by_k.values()  # one k, clipped to the bank's size
        return Reading(effective_rank(features), mean_similarity(features), accuracy)

    def judge(self, reading: Reading, step: int) -> str:
        """A sentence on the reading; a collapse that lasts ends the run, if so configured.

        Raises:
            CollapseError: With what to try.
        """
        config = self._config
        before, self._first = self._first, self._first or reading
        collapsed = reading.effective_rank < config.min_effective_rank or reading.similarity > config.max_similarity
        self._collapsed = self._collapsed + 1 if collapsed else 0
        if not collapsed:
            if before is None:
                return f"{reading}"
            name, now = reading.measure
            change = now - before.measure[1]
            shown = f"{100 * change:+.1f} points" if name == "knn" else f"{change:+.1f}"
            return f"{reading} ({shown} since first measured)"
        if self._collapsed < config.patience or config.on_collapse == "warn":
            return f"{reading}: the features are collapsing"
        raise CollapseError(
            f"The features have collapsed by step {step:,}: all images look alike to the teacher.",
            found=f"{reading}, {self._collapsed} times in a row",
            expected=f"effective rank ≥ {config.min_effective_rank:g} and similarity ≤ {config.max_similarity:g}",
            action="lower the learning rate or lengthen its warmup, lower the teacher temperature, use sinkhorn_knopp "
            "instead of softmax centering, or use more images a step; the last checkpoints are kept",
        )


def effective_rank(features: Tensor) -> float:
    """The number of directions that embeddings ``[N, D]`` fill: exp of the entropy of their singular values (RankMe).

    1 when all are the same, at most min(N, D).
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(shares * (shares + 1e-12).log()).sum()))


def mean_similarity(features: Tensor) -> float:
    """The mean cosine similarity of two different rows of ``[N, D]``: 1 when all point the same way."""
    unit = normalize(features.double(), dim=1)
    count = len(unit)
    return float((unit.sum(0).square().sum() - count) / (count * (count - 1)))


def require_finite(rows: Tensor, names: tuple[str, ...], first_step: int) -> None:
    """Check the recorded loss terms.

    Args:
        rows: ``[S, T]``: a row a step, a column a term, on the host.
        names: The terms' names, in the order in which they are computed.
        first_step: The step of the first row, counted from 1.

    Raises:
        DivergedError: Naming the first term of the first step that is not finite.
    """
    bad = ~torch.isfinite(rows)
    if not bad.any():
        return
    row = int(bad.any(1).nonzero()[0])
    column = int(bad[row].nonzero()[0])
    before = "this is the first step since the last report"
    if row > 0:
        before = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, rows[row - 1].tolist(), strict=True))
        before = f"one step before: {before}"
    value = rows[row, column].item()
    raise DivergedError(
        f"Training diverged at step {first_step + row:,}: the loss term {names[column]!r} is {value}.",
        found=before,
        expected="finite numbers",
        action="run again with a lower learning rate, a longer warmup, a smaller clip_gradient, or precision fp32; "
        "the last checkpoint was saved before this and is kept. If it happens in the first steps, look for "
        "images that are all of one colour and for a wrong mean and std in the dataset's handle",
    )
