"""What every protocol is: its measures, what it needs of a forward pass, and how it measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from dinomill.arrays import Rows
from dinomill.config import Config
from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.evaluation.statistics import Outcomes
from dinomill.evaluation.wanted import Needs
from dinomill.scores import Measure

if TYPE_CHECKING:
    from dinomill.evaluation.results import Results
    from dinomill.evaluation.split_features import NetworkFeatures


@dataclass(frozen=True)
class Settings:
    """What all protocols of an evaluation share.

    Args:
        seed: Of held-out parts and draws.
        batch_size: Images in a forward pass or a step.
        work: Where a protocol may keep what it need not compute again, under its own name.
        device: Where large products are made; what a protocol returns is on the CPU.
        precision: Of the networks' products, where a protocol runs them itself.
    """

    seed: int
    batch_size: int
    work: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Literal["float32", "bfloat16", "auto"] = "float32"


@dataclass(frozen=True)
class Measured:
    """One measure of one network.

    Args:
        outcomes: What came of every query; its statistic is the score.
        predicted: The class of every query ``[Q]``, where the protocol names one.
        chosen: What was chosen by the bank (k, a rate, …); shown as columns beside the score. Names are unique.
        details: Every figure that is worth keeping, by a unique name.
        classifier: Weights ``[E, C]`` and bias ``[C]`` of a linear classifier of the embedding, where it made one.
    """

    outcomes: Outcomes
    predicted: Rows | None = None
    chosen: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)
    classifier: tuple[Tensor, Tensor] | None = None


C = TypeVar("C", bound=Config)
D = TypeVar("D", bound=EvaluationSet[Any])


class Protocol(ABC, Generic[C, D]):
    """A way to measure frozen features on one kind of labelled set.

    Args:
        config: Its section of ``evaluation.protocols``.
    """

    name: ClassVar[str]
    """As in ``evaluation.protocols`` and in a set's list."""
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of labelled sets that it can be measured on."""
    source: ClassVar[str]
    """Paper and section that it follows."""

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        """What a forward pass has to give: by default embeddings of bank and queries."""
        return Needs()

    @abstractmethod
    def measures(self, data: D) -> tuple[Measure, ...]:
        """Its columns on a set, in order; names are unique among all protocols."""

    def check(self, data: D) -> None:
        """Refuse a set that it cannot be measured on, before anything is extracted.

        Raises:
            InputError: With what is missing.
        """

    @abstractmethod
    def measure(self, features: NetworkFeatures, data: D, settings: Settings) -> Mapping[str, Measured]:
        """Measure one network.

        Args:
            features: Of the bank, the queries and the views that ``needs`` asked for; nothing is computed twice.
            data: What is known of the images.
            settings: Seeds and batches.

        Returns:
            An entry for each of ``measures``. No choice looks at the queries.
        """

    def draw(self, folder: Path, results: Results) -> Sequence[Path]:
        """Further plots of all networks, as SVG files of the same bytes for the same figures; returns their paths."""
        del folder, results
        return ()
