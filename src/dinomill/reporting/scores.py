"""What the page says about evaluation: the table, intervals, and what training gained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dinomill.handles import EvaluationHandle
from dinomill.reporting.charts import Interval, dot_plot
from dinomill.reporting.names import display_name
from dinomill.reporting.overlays import Overlay, view_overlays
from dinomill.reporting.pareto import Tradeoff, view_tradeoffs
from dinomill.scores import Difference, Figure, Measure, ModelScore, ScoreTable

_TONES = 5  # colours of the style sheet


@dataclass(frozen=True)
class ScoreRow:
    """A row of the evaluation table: its figures in the order of the measures."""

    name: str
    kind: str
    parameters: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Gain:
    """Paired differences of two rows of the table on the same images, in the order of the measures."""

    text: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class ScoresView:
    """Everything that the page shows of one labelled set."""

    name: str | None  # None: the labelled images
    measures: tuple[Measure, ...]
    rows: tuple[ScoreRow, ...]
    gains: tuple[Gain, ...]
    legend: tuple[tuple[str, int], ...]
    chart: str  # of the measures that are fractions
    bank_images: int
    query_images: int
    classes: tuple[str, ...]
    helped: str | None  # a sentence on the weights that training started from
    behind_pixels: str | None  # a sentence where raw pixels do as well as the teacher
    tradeoffs: tuple[Tradeoff, ...] = ()  # against size and time
    overlays: tuple[Overlay, ...] = ()  # queries with what is predicted of every pixel


def view_scores(evaluation: EvaluationHandle) -> ScoresView | None:
    """The table of the labelled images; None when nothing was measured because there are no labels."""
    return _view(None, evaluation) if evaluation.scores else None


def view_sets(evaluation: EvaluationHandle) -> tuple[ScoresView, ...]:
    """The tables of further labelled sets."""
    return tuple(
        replace(_view(name, table), overlays=view_overlays(evaluation, name))
        for name, table in evaluation.tables().items()
        if name is not None
    )


def _view(name: str | None, table: ScoreTable) -> ScoresView:
    rows = tuple(score_row(score, table.measures) for score in table.scores)
    drawn = [(index, measure) for index, measure in enumerate(table.measures) if measure.percent][:_TONES]
    marks = [(row.name, [_mark(row.figures[index], tone) for tone, (index, _) in enumerate(drawn, 1)]) for row in rows]
    return ScoresView(
        name,
        table.measures,
        rows,
        _gains(table),
        tuple((measure.title, tone) for tone, (_, measure) in enumerate(drawn, 1)),
        dot_plot(marks) if drawn else "",
        table.bank_images,
        table.query_images,
        table.classes,
        table.helped(),
        table.behind_pixels(),
        view_tradeoffs(table),
    )


def score_row(score: ModelScore, measures: tuple[Measure, ...]) -> ScoreRow:
    """A row with its figures."""
    return ScoreRow(
        display_name(score), score.kind, score.parameters, tuple(score.scores[measure.name] for measure in measures)
    )


def _mark(figure: Figure, tone: int) -> Interval:
    return Interval(figure.value, figure.low, figure.high, tone)


def _gains(table: ScoreTable) -> tuple[Gain, ...]:
    return tuple(
        Gain(name.replace("_", " "), tuple(gains[measure.name] for measure in table.measures))
        for name, gains in sorted(table.gains.items(), key=_first)
    )


def _first(gain: tuple[str, object]) -> tuple[bool, bool]:
    """What a user asks first: did it help? Then what is said of the teacher."""
    return not gain[0].endswith("_over_start"), not gain[0].startswith("teacher")
