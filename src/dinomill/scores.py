"""Tables of scores: what evaluation measured of every network, and what a measure is.

A measure says of itself how it is shown and which way is better, so that whoever reads a table (gate, card, page,
plots) needs to know none of them by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

KINDS = ("pixels", "random", "reference", "start", "champion", "teacher", "student", "model")
"""Rows of a table, in its order; a model is one that was named by its address alone."""
NAMED_KINDS = ("reference", "student", "model")
"""Kinds of which there may be several: their label has the name, too."""


class Measure(BaseModel):
    """One column of a table of scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="in files, metrics and configuration: knn, linear, miou, …")
    title: str = Field(description="for people: kNN, linear probe, mIoU, …")
    by: str = Field(default="", description="in a sentence: better by neighbours; empty: the title")
    percent: bool = Field(default=True, description="a fraction, shown in per cent; else a number in `unit`")
    unit: str = Field(default="", description="of a number that is no fraction: m, images/s, …")
    higher_is_better: bool = True
    low: float | None = Field(default=0.0, description="no value is below; null: there is no such bound")
    high: float | None = Field(default=1.0, description="no value is above; null: there is no such bound")
    note: str = Field(default="", description="how it was taken, where that changes it: the machine that was timed")
    timed: bool = Field(default=False, description="taken with a clock: no two runs have it in common")
    chance: float | None = Field(default=None, description="what guessing reaches on this set; null: unknown")

    @property
    def scale(self) -> float:
        """From a value to what people see: 100 for fractions."""
        return 100.0 if self.percent else 1.0

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.higher_is_better else -1

    @property
    def step(self) -> str:
        """What differences are counted in: points of per cent, or the unit."""
        return "points" if self.percent else self.unit

    def show(self, value: float) -> str:
        """A value for people: ``81.2%``, ``0.449 m``."""
        return f"{100 * value:.1f}%" if self.percent else f"{_digits(value)} {self.unit}".rstrip()

    def bare(self, value: float) -> str:
        """The same without sign or unit, for tables whose head says it."""
        return f"{100 * value:.1f}" if self.percent else _digits(value)

    @property
    def head(self) -> str:
        """Over a column of bare values: the title, and the unit of what is no fraction."""
        return self.title if self.percent or not self.unit else f"{self.title} ({self.unit})"

    def signed(self, value: float) -> str:
        """A difference without its unit: ``+1.3``, ``-0.021``."""
        return f"{100 * value:+.1f}" if self.percent else f"{'+' if value >= 0 else '-'}{_digits(abs(value))}"


def _digits(value: float) -> str:
    """Three digits that say something, and no exponent."""
    return (
        "0"
        if value == 0
        else f"{value:,.0f}"
        if abs(value) >= 100
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.3f}"
    )


class Figure(BaseModel):
    """A value with its confidence interval; both ends are the value where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    def show(self, measure: Measure) -> str:
        """``81.2% [80.1, 82.4]``."""
        return f"{measure.show(self.value)} {self.reach(measure)}".rstrip()

    def reach(self, measure: Measure) -> str:
        """``[80.1, 82.4]``; nothing where there is no interval."""
        return f"[{measure.bare(self.low)}, {measure.bare(self.high)}]" if self.high > self.low else ""


class Difference(BaseModel):
    """How much more one model reaches than another on the same images, with its interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.show(_PLAIN)

    def show(self, measure: Measure) -> str:
        """``+3.1 points [+1.2, +5.0]``."""
        return " ".join(part for part in (measure.signed(self.value), measure.step, self.reach(measure)) if part)

    def reach(self, measure: Measure) -> str:
        """``[+1.2, +5.0]``; nothing where there is no interval."""
        return f"[{measure.signed(self.low)}, {measure.signed(self.high)}]" if self.high > self.low else ""


_PLAIN = Measure(name="", title="")  # of fractions, where nothing else is known


class ModelScore(BaseModel):
    """One row of a table: a network and its figures, by measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    kind: str = Field(description=", ".join(KINDS))
    parameters: int
    scores: dict[str, Figure] = Field(description="by name of the measure")
    details: dict[str, float] = Field(default_factory=dict, description="what was chosen, and every value tried")

    @property
    def key(self) -> str:
        """The row's name among others."""
        return f"{self.kind}/{self.model}"

    def value(self, measure: str) -> float:
        """The figure of one measure, without its interval."""
        return self.scores[measure].value


class TimedTable(BaseModel):
    """What was taken with a clock on one labelled set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measures: tuple[Measure, ...] = ()
    scores: dict[str, dict[str, Figure]] = Field(default_factory=dict, description="by a row's key, by measure")


class Times(BaseModel):
    """What an evaluation took with a clock; no stage is made of it.

    It lies by the results that it belongs to: another evaluation's, or that of a commit which is checked out again,
    has a file of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_of: str = Field(description="of the evaluation's handle: of other results they are not")
    tables: dict[str, TimedTable] = Field(description="by set; that of the labelled images has no name")


def times_of(work: Path, made_of: str) -> Path:
    """Where the times of an evaluation lie.

    Args:
        work: Evaluation's work folder.
        made_of: Of the evaluation's handle.
    """
    return work / "times" / f"{made_of[:32]}.json"


class ScoreTable(BaseModel):
    """What was measured on one labelled set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: tuple[ModelScore, ...] = ()
    measures: tuple[Measure, ...] = Field(default=(), description="the columns, in order; the first ranks the rows")
    gains: dict[str, dict[str, Difference]] = Field(
        default_factory=dict, description="paired differences: teacher_over_start: {knn, linear}, …"
    )
    bank_images: int = Field(default=0, description="images that probes learnt from or searched in")
    query_images: int = Field(default=0, description="images that were scored")
    classes: tuple[str, ...] = ()
    labelled_sha256: str | None = Field(default=None, description="of the images and their labels")

    def measure(self, name: str) -> Measure | None:
        """A column by its name."""
        return next((one for one in self.measures if one.name == name), None)

    def score(self, kind: str) -> ModelScore | None:
        """The best row of a kind by the first measure, or None."""
        rows = [row for row in self.scores if row.kind == kind]
        if not rows:
            return None
        first = self.measures[0]
        return max(rows, key=lambda row: first.sign * row.value(first.name))

    def beside(self, times: TimedTable) -> Self:
        """With the figures of a clock beside the others; unchanged where a row has none."""
        if not all(measure.name in times.scores.get(row.key, {}) for row in self.scores for measure in times.measures):
            return self
        rows = [row.model_copy(update={"scores": row.scores | times.scores[row.key]}) for row in self.scores]
        return self.model_copy(update={"scores": tuple(rows), "measures": self.measures + times.measures})

    @property
    def of_a_clock(self) -> TimedTable:
        """The figures of a clock alone."""
        measures = tuple(one for one in self.measures if one.timed)
        names = {one.name for one in measures}
        return TimedTable(
            measures=measures,
            scores={row.key: {name: one for name, one in row.scores.items() if name in names} for row in self.scores},
        )

    def helped(self, model: str = "teacher") -> str | None:
        """Whether a model is better than the weights that training started from, as a sentence; None without any.

        Args:
            model: ``teacher``, or a student's name.
        """
        start, found = self.score("start"), self.gains.get(f"{model}_over_start")
        if start is None or not found:
            return None
        measures = [measure for measure in self.measures if measure.name in found]
        gained = [one for one in measures if _surely(one, found[one.name]) > 0]
        lost = [one for one in measures if _surely(one, found[one.name]) < 0]
        if gained and lost:
            verdict = f"is better by {_named(gained)}, and worse by {_named(lost)}, than"
        else:
            verdict = "is better than" if gained else "is worse than" if lost else "does not surely differ from"
        name = "The adapted model" if model == "teacher" else f"The student {model}"
        figures = [
            f"{one.title} {found[one.name].show(one)} ({'they have ' if one is measures[0] else ''}"
            f"{one.show(start.value(one.name))})"
            for one in measures
        ]
        return f"{name} {verdict} the weights that it started from: {', '.join(figures)}."

    def behind_pixels(self, kind: str = "teacher") -> str | None:
        """That the pixels themselves do as well as a network, as a sentence; None where they do not.

        Args:
            kind: Of its row: ``teacher`` or ``student``; of several the best.
        """
        pixels, network = self.score("pixels"), self.score(kind)
        if pixels is None or network is None:
            return None
        first = self.measures[0]
        theirs, ours = pixels.value(first.name), network.value(first.name)
        if first.sign * theirs < first.sign * ours:
            return None
        return (
            f"The pixels themselves reach {first.show(theirs)} by {_named([first])}, the {kind} "
            f"{first.show(ours)}: for these labels it has not learnt enough. More images or time help, or "
            + ("released weights to start from." if kind == "teacher" else "another teacher.")
        )


def _surely(measure: Measure, gain: Difference) -> int:
    """1 where the interval says better, -1 where it says worse."""
    better, worse = (gain.low > 0, gain.high < 0) if measure.higher_is_better else (gain.high < 0, gain.low > 0)
    return int(better) - int(worse)


def _named(measures: list[Measure]) -> str:
    return " and ".join(measure.by or measure.title for measure in measures)
