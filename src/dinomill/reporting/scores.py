"""What the page says about evaluation: the table, intervals, and what training gained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dinomill.handles import EvaluationHandle, ModelScore
from dinomill.reporting.charts import Interval, dot_plot

_TONES = {"knn": 1, "linear": 2}
_KINDS = {"pixels": "raw pixels", "random": "random weights", "start": "starting weights"}


@dataclass(frozen=True)
class ScoreRow:
    """A row of the evaluation table."""

    name: str
    kind: str
    parameters: int
    knn: Interval
    linear: Interval


@dataclass(frozen=True)
class Gain:
    """Paired differences of two rows of the table on the same images."""

    text: str
    knn: Interval
    linear: Interval


@dataclass(frozen=True)
class ScoresView:
    """Everything that the page shows of evaluation."""

    rows: tuple[ScoreRow, ...]
    gains: tuple[Gain, ...]
    chart: str
    bank_images: int
    query_images: int
    classes: tuple[str, ...]
    helped: str | None  # a sentence on the weights that training started from
    behind_pixels: str | None  # a sentence where raw pixels do as well as the teacher


def view_scores(evaluation: EvaluationHandle) -> ScoresView | None:
    """The table of scores; None when nothing was measured because there are no labels."""
    if not evaluation.scores:
        return None
    rows = tuple(score_row(score) for score in evaluation.scores)
    return ScoresView(
        rows,
        _gains(evaluation),
        dot_plot([(row.name, (row.knn, row.linear)) for row in rows]),
        evaluation.bank_images,
        evaluation.query_images,
        evaluation.classes,
        evaluation.helped(),
        evaluation.behind_pixels(),
    )


def score_row(score: ModelScore) -> ScoreRow:
    """A score with its intervals; without them where an older table has none."""

    def interval(probe: str, value: float) -> Interval:
        low, high = (score.details.get(f"{probe}_{end}", value) for end in ("low", "high"))
        return Interval(value, low, high, _TONES[probe])

    return ScoreRow(
        display_name(score), score.kind, score.parameters, interval("knn", score.knn), interval("linear", score.linear)
    )


def display_name(score: ModelScore) -> str:
    """What people call a row."""
    if score.kind in _KINDS:
        return _KINDS[score.kind]
    if score.kind == "reference":
        return score.model
    return score.kind if score.model == score.kind else f"{score.kind} {score.model}"


def _gains(evaluation: EvaluationHandle) -> tuple[Gain, ...]:
    path = evaluation.folder / "results.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return tuple(
        Gain(name.replace("_", " "), Interval(**probes["knn"]), Interval(**probes["linear"]))
        for name, probes in sorted(results.get("gain", {}).items(), key=_first)
    )


def _first(gain: tuple[str, Any]) -> tuple[bool, bool]:
    """What a user asks first: did it help? Then what is said of the teacher."""
    return not gain[0].endswith("_over_start"), not gain[0].startswith("teacher")
