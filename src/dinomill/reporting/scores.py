"""What the page says about evaluation: the table, intervals, and what training gained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dinomill.handles import EvaluationHandle
from dinomill.reporting.charts import Interval, dot_plot
from dinomill.reporting.names import display_name, whose_size
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
    """Paired differences of two rows of the table on the same images, in the order of the measures compared."""

    text: str
    differences: tuple[Difference | None, ...]  # None: not compared by that measure


@dataclass(frozen=True)
class ScoresView:
    """Everything that the page shows of one labelled set."""

    name: str | None  # None: the labelled images
    measures: tuple[Measure, ...]
    rows: tuple[ScoreRow, ...]
    gains: tuple[Gain, ...]
    compared: tuple[Measure, ...]  # the columns of the differences
    legend: tuple[tuple[str, int], ...]
    chart: str  # of the measures that are fractions
    bank_images: int
    query_images: int
    classes: tuple[str, ...]
    helped: str | None  # a sentence on the weights that training started from
    behind_pixels: str | None  # a sentence where raw pixels do as well as the teacher
    tradeoffs: tuple[Tradeoff, ...] = ()  # against size and time
    random: str = ""  # a sentence on the shape of the random network
    overlays: tuple[Overlay, ...] = ()  # queries with what is predicted of every pixel


@dataclass(frozen=True)
class Headline:
    """The registered network's row, and what it is read beside."""

    name: str  # in a sentence
    kind: str  # for people: teacher, student small
    row: ScoreRow
    beside: tuple[tuple[str, ScoreRow], ...]


def view_scores(evaluation: EvaluationHandle, registered: str = "teacher") -> ScoresView | None:
    """The table of the labelled images; None when nothing was measured because there are no labels.

    Args:
        evaluation: The tables.
        registered: Kind of the row that was registered: ``teacher`` or ``student``.
    """
    return _view(None, evaluation, registered) if evaluation.scores else None


def headline(view: ScoresView | None, kind: str, name: str, *, taught: bool) -> Headline | None:
    """What the page begins with: the registered network; None where it was not measured.

    Args:
        view: The table of the labelled images.
        kind: Of the registered network's row.
        name: Of its row, as people read it.
        taught: Whether the row of the teacher is the network that taught it.
    """
    found = [] if view is None else [row for row in view.rows if row.kind == kind and row.name == name]
    if view is None or not found:
        return None
    beside = {"random": "random weights"} | ({"teacher": "its teacher"} if taught and kind == "student" else {})
    shown = [(said, row) for row_kind, said in reversed(beside.items()) for row in view.rows if row.kind == row_kind]
    return Headline(f"the {name}, which is registered,", name, found[0], tuple(shown))


def view_sets(evaluation: EvaluationHandle) -> tuple[ScoresView, ...]:
    """The tables of further labelled sets."""
    return tuple(
        replace(_view(name, table), overlays=view_overlays(evaluation, name))
        for name, table in evaluation.tables().items()
        if name is not None
    )


def _view(name: str | None, table: ScoreTable, registered: str = "teacher") -> ScoresView:
    rows = tuple(score_row(score, table.measures) for score in table.scores)
    drawn = [(index, measure) for index, measure in enumerate(table.measures) if measure.percent][:_TONES]
    marks = [(row.name, [_mark(row.figures[index], tone) for tone, (index, _) in enumerate(drawn, 1)]) for row in rows]
    return ScoresView(
        name,
        table.measures,
        rows,
        _gains(table),
        _compared(table),
        tuple((measure.title, tone) for tone, (_, measure) in enumerate(drawn, 1)),
        dot_plot(marks) if drawn else "",
        table.bank_images,
        table.query_images,
        table.classes,
        table.helped(),
        table.behind_pixels(registered),
        view_tradeoffs(table),
        whose_size(table),
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
        Gain(name.replace("_", " "), tuple(gains.get(measure.name) for measure in _compared(table)))
        for name, gains in sorted(table.gains.items(), key=_first)
    )


def _compared(table: ScoreTable) -> tuple[Measure, ...]:
    """Measures of which there are differences: none of a speed that was timed, or of a size."""
    return tuple(one for one in table.measures if any(one.name in gains for gains in table.gains.values()))


def _first(gain: tuple[str, object]) -> tuple[bool, bool]:
    """What a user asks first: did it help? Then what is said of the teacher."""
    return not gain[0].endswith("_over_start"), not gain[0].startswith("teacher")
