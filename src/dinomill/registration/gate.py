"""May this version be the champion? Each requirement is one sentence with its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dinomill.errors import ConfigError
from dinomill.handles import EvaluationHandle, ModelHandle
from dinomill.registration.config import CHAMPION, PromotionConfig
from dinomill.registration.noise import noise
from dinomill.scores import Difference, Measure, ModelScore, ScoreTable

_CLOCK = (
    "name one of these: what was taken with a clock ranks nothing; registration.gate.max_slowdown_from_champion times "
    "both versions side by side"
)


@dataclass(frozen=True)
class Check:
    """One requirement and how it went."""

    passed: bool
    sentence: str
    undone: str | None = None  # what could not be done, so that nothing stands in the way: "not compared"
    about: str = ""  # what it was compared with, where that is another version: champion

    @property
    def word(self) -> str:
        """The verdict."""
        return self.undone or ("passed" if self.passed else "FAILED")

    def __str__(self) -> str:
        return f"{self.word}: {self.sentence}"


@dataclass(frozen=True)
class Champion:
    """The present champion, as its version's tags describe it."""

    version: int
    tags: Mapping[str, str]

    @property
    def weights(self) -> str | None:
        """The hash of its weights."""
        return self.tags.get("weights_sha256")


def gated(evaluation: EvaluationHandle, gate: PromotionConfig) -> tuple[ScoreTable, Measure] | None:
    """The table and the column that the gate looks at; None when nothing was measured.

    Raises:
        ConfigError: When that measure is not among those which were taken.
    """
    tables = evaluation.tables()
    if not tables:
        return None
    on, _, name = gate.measure.rpartition("/")
    table = tables.get(on or None)
    measure = None if table is None else table.measure(name)
    if table is None or measure is None:
        known = [
            one.name if where is None else f"{where}/{one.name}"
            for where, table in tables.items()
            for one in table.measures
        ]
        raise ConfigError(
            f"registration.gate.measure asks for {gate.measure}, which the evaluation did not take.",
            found=", ".join(known),
            action=_CLOCK
            if name in evaluation.timed
            else "name one of these, or add its protocol to `evaluation.measured` or to the set's `protocols`",
        )
    return table, measure


def judge(
    score: ModelScore | None,
    evaluation: EvaluationHandle,
    champion: Champion | None,
    gate: PromotionConfig,
    model: ModelHandle | None = None,
) -> tuple[Check, ...]:
    """Every requirement that is configured.

    Args:
        score: Of the model to register, in the table that the gate looks at; None when nothing was measured.
        evaluation: With the scores that it is compared to.
        champion: The present one; None when there is none, or it has the same weights.
        gate: The requirements.
        model: That is to be registered, which knows by whom it was taught; None: by the teacher that was measured.

    Raises:
        ConfigError: When the gate's measure was not taken.
    """
    found = gated(evaluation, gate)
    if score is None or found is None:
        promoted = gate.without_labels == "promote"
        action = "promoted" if promoted else "held as a candidate"
        return (Check(promoted, f"there are no labelled images: {action}, as configured", "not measured"),)
    asked = _Asked(score, *found, gate)
    checks = []
    random, teacher = asked.table.score("random"), asked.table.score("teacher")
    if gate.min_gain_over_random is not None and random is None:
        checks.append(Check(True, "no random network was measured (evaluation.random.seeds: 0)", "not compared"))
    elif gate.min_gain_over_random is not None and random is not None:
        gain = asked.ahead_of(asked.of(random))
        checks.append(
            Check(
                gain >= gate.min_gain_over_random,
                f"{asked.said}, {asked.signed(asked.of(random))} over the random network "
                f"({asked.measure.show(asked.of(random))}); at least +{asked.limit(gate.min_gain_over_random)} is "
                "required" + asked.noise(gain - gate.min_gain_over_random, asked.of(random), "random", random),
            )
        )
    if gate.max_drop_from_teacher is not None and teacher is not None and score.kind == "student":
        if model is None or evaluation.measured_teacher_of(model):
            behind = asked.at_most_behind(asked.of(teacher), gate.max_drop_from_teacher, "its teacher", row=teacher)
        else:
            behind = _other_teacher(model)
        checks.append(behind)
    if gate.max_drop_from_start is not None:
        other = score.kind == "student" and model is not None and not evaluation.measured_teacher_of(model)
        checks.append(_other_start(model) if other and model else _against_start(asked, gate.max_drop_from_start))
    if gate.max_drop_from_champion is not None:
        paired = champion is not None and champion.weights == evaluation.champion_sha256
        checks.append(_against_champion(asked, champion, gate.max_drop_from_champion, paired=paired))
    return tuple(checks)


@dataclass(frozen=True)
class _Asked:
    """The score that is judged, by one measure."""

    score: ModelScore
    table: ScoreTable
    measure: Measure
    gate: PromotionConfig

    @property
    def own(self) -> float:
        """Its value."""
        return self.of(self.score)

    @property
    def said(self) -> str:
        """Its value as the beginning of a sentence."""
        return f"{self.measure.title} of {self.score.model} is {self.measure.show(self.own)}"

    def of(self, score: ModelScore) -> float:
        """The value of another row."""
        return score.value(self.measure.name)

    def limit(self, value: float) -> str:
        """A requirement as it was configured: in points, or in the measure's unit."""
        return f"{value:.1f}" if self.measure.percent else f"{value:g}"

    def ahead_of(self, other: float) -> float:
        """By how much it is better, in the requirements' unit: points, or the measure's."""
        return self.measure.sign * self.measure.scale * (self.own - other)

    def signed(self, other: float) -> str:
        """The plain difference: more is more, also where less is better."""
        return f"{self.measure.signed(self.own - other)} {self.measure.step}".rstrip()

    def at_most_behind(
        self,
        other: float,
        allowed: float,
        whom: str,
        *,
        interval: str = "",
        subject: str | None = None,
        row: ModelScore | None = None,
    ) -> Check:
        """One requirement: not to be worse than another, a row of the table or none, by more than a limit."""
        kind = "champion" if row is None else row.kind
        return Check(
            self.ahead_of(other) >= -allowed,
            f"{subject or f'{self.measure.title} of {self.score.model}'} is {self.signed(other)}{interval} from {whom} "
            f"({self.measure.show(other)}); at most {self.limit(allowed)} "
            f"{'below' if self.measure.higher_is_better else 'above'} is allowed"
            + self.noise(self.ahead_of(other) + allowed, other, kind, row),
        )

    def paired(self, kind: str) -> Difference | None:
        """The difference from a row of another kind on the same images, with its interval, where it was worked out."""
        name = "teacher" if self.score.kind == "teacher" else self.score.model
        found = self.table.gains.get(f"{name}_over_{kind}")
        return None if found is None else found.get(self.measure.name)

    def noise(self, margin: float, other: float, kind: str, row: ModelScore | None) -> str:
        """What is added where the images are too few to decide."""
        paired = None if row is None else self.paired(kind)
        return noise(margin / self.measure.scale, self.own - other, self.measure, paired, self.score, row)


def _other_teacher(model: ModelHandle) -> Check:
    """The row of the teacher is pretraining's network, and the student learnt from another one."""
    origin = f", {model.origin}," if model.origin else ""
    said = f"the teacher of {model.name}{origin} was not measured: the evaluation's teacher is another network"
    return Check(True, said, "not compared")


def _other_start(model: ModelHandle) -> Check:
    """A student that another network taught has nothing of the weights that pretraining started from."""
    origin = f", {model.origin}," if model.origin else ""
    return Check(True, f"{model.name}{origin} does not come from the weights that were started from", "not compared")


def _against_start(asked: _Asked, allowed: float) -> Check:
    start, one = asked.table.score("start"), asked.paired("start")
    if start is None:
        return Check(True, "training started from random weights: there are no starting weights", "not compared")
    interval = "" if one is None else f" {one.reach(asked.measure)}"
    whom = "the weights that training started from"
    return asked.at_most_behind(asked.of(start), allowed, whom, interval=interval, row=start)


def _against_champion(asked: _Asked, champion: Champion | None, allowed: float, *, paired: bool) -> Check:
    """Not worse than the champion on these images: by its row, where evaluation measured it; else by its tags."""
    if champion is None:
        return Check(True, "there is no other champion", "not compared", CHAMPION)
    name = asked.gate.measure
    whom = f"version {champion.version}, the champion"
    row = asked.table.score(CHAMPION) if paired else None
    if row is not None:
        one = asked.paired(CHAMPION)
        interval = "" if one is None else f" {one.reach(asked.measure)}"
        found = asked.at_most_behind(asked.of(row), allowed, whom, interval=interval, row=row)
        return replace(found, about=CHAMPION)
    tagged = champion.tags.get(name)
    if tagged is None or champion.tags.get(labelled_tag(name)) != asked.table.labelled_sha256:
        return Check(True, f"{whom}, was measured on other images", "not compared", CHAMPION)
    found = asked.at_most_behind(float(tagged), allowed, whom, subject=asked.measure.title)
    return replace(found, about=CHAMPION)


def labelled_tag(measure: str) -> str:
    """The tag that holds the hash of the images which a measure was taken on."""
    on = measure.rpartition("/")[0]
    return f"{on}/labelled_sha256" if on else "labelled_sha256"
