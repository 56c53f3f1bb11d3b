"""What an evaluation found on one labelled set, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dinomill.evaluation.networks import Network
from dinomill.evaluation.protocols.base import Measured, Protocol
from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.evaluation.split_features import NetworkFeatures
from dinomill.scores import Difference, Figure, Measure, ModelScore, ScoreTable


@dataclass(frozen=True)
class Row:
    """One network, its features and what was measured, by measure."""

    features: NetworkFeatures
    measured: Mapping[str, Measured]
    figures: Mapping[str, Figure]

    @property
    def network(self) -> Network:
        """The network."""
        return self.features.network

    @property
    def label(self) -> str:
        """The row's name in files and metrics."""
        return self.network.label

    @property
    def chosen(self) -> dict[str, float]:
        """What was chosen by the bank, of all protocols."""
        return {name: value for one in self.measured.values() for name, value in one.chosen.items()}

    @property
    def score(self) -> ModelScore:
        """The row of the table."""
        width = self.features.bank.embedding.shape[1]  # 0 where no protocol asked for embeddings
        details = {name: value for one in self.measured.values() for name, value in one.details.items()}
        return ModelScore(
            model=self.network.name,
            kind=self.network.kind,
            parameters=self.network.parameters,
            scores=dict(self.figures),
            details={**({"embed_dim": width} if width else {}), **self.chosen, **details},
        )


@dataclass(frozen=True)
class Results:
    """All that was measured on one set."""

    data: EvaluationSet[Any]
    protocols: tuple[Protocol[Any, Any], ...]
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    gains: dict[str, dict[str, Difference]]  # comparison: measure: difference

    def row(self, kind: str) -> Row | None:
        """The best row of a kind by the first measure."""
        first = self.measures[0]
        rows = [row for row in self.rows if row.network.kind == kind]
        return max(rows, key=lambda row: first.sign * row.figures[first.name].value, default=None)

    def lasting(self) -> Results:
        """Without what was taken with a clock."""
        timed = {one.name for one in self.measures if one.timed}
        if not timed:
            return self
        rows = tuple(
            replace(
                row,
                measured={name: one for name, one in row.measured.items() if name not in timed},
                figures={name: one for name, one in row.figures.items() if name not in timed},
            )
            for row in self.rows
        )
        return replace(self, measures=tuple(one for one in self.measures if not one.timed), rows=rows)

    @property
    def table(self) -> ScoreTable:
        """What later stages get."""
        return ScoreTable(
            scores=tuple(row.score for row in self.rows),
            measures=self.measures,
            gains={
                name: {measure: rounded(gain) for measure, gain in gains.items()} for name, gains in self.gains.items()
            },
            bank_images=len(self.data.bank),
            query_images=len(self.data.queries),
            classes=self.data.classes,
            labelled_sha256=self.data.sha256,
        )


def rounded(gain: Difference) -> Difference:
    """As it is written everywhere."""
    return Difference(**leaf(gain))


def leaf(figure: Figure | Difference) -> dict[str, float]:
    """A figure with its interval, for JSON."""
    return {name: round(getattr(figure, name), 6) for name in ("value", "low", "high")}
