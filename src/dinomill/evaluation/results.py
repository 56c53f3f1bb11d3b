"""What an evaluation found, before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dinomill.evaluation.measure import Measured
from dinomill.evaluation.networks import Network
from dinomill.evaluation.statistics import Interval
from dinomill.handles import ModelScore
from dinomill.images.labelled import LabelledPaths


@dataclass(frozen=True)
class Row:
    """One network, its features and its scores."""

    network: Network
    bank: Tensor  # [B, D]
    queries: Tensor  # [Q, D]
    measured: Measured

    @property
    def label(self) -> str:
        """The row's name in files and metrics: its kind, and the name where there may be several of a kind."""
        kind = self.network.kind
        return f"{kind}-{self.network.name}" if kind in ("student", "reference") else kind

    @property
    def score(self) -> ModelScore:
        """The row of the table."""
        return ModelScore(
            model=self.network.name,
            kind=self.network.kind,
            parameters=self.network.parameters,
            knn=self.measured.knn.value,
            linear=self.measured.linear.value,
            details={"embed_dim": self.bank.shape[1], **self.measured.details()},
        )


@dataclass(frozen=True)
class Results:
    """All that was measured."""

    rows: tuple[Row, ...]
    bank: LabelledPaths
    queries: LabelledPaths
    root: Path
    data_sha256: str
    gains: dict[str, dict[str, Interval]]  # comparison: probe: difference

    def row(self, kind: str) -> Row | None:
        """The best row of a kind by kNN."""
        return max(
            (row for row in self.rows if row.network.kind == kind), key=lambda r: r.measured.knn.value, default=None
        )
