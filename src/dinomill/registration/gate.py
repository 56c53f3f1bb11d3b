"""May this version be the champion? Each requirement is one sentence with its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from dinomill.handles import Difference, EvaluationHandle, ModelScore
from dinomill.registration.config import PromotionConfig
from dinomill.registration.noise import noise


@dataclass(frozen=True)
class Check:
    """One requirement and how it went."""

    passed: bool
    sentence: str
    undone: str | None = None  # what could not be done, so that nothing stands in the way: "not compared"

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


def judge(
    score: ModelScore | None,
    evaluation: EvaluationHandle,
    champion: Champion | None,
    labelled_sha256: str | None,
    gate: PromotionConfig,
) -> tuple[Check, ...]:
    """Every requirement that is configured.

    Args:
        score: Of the model to register; None when nothing was measured.
        evaluation: With the scores that it is compared to.
        champion: The present one; None when there is none, or it has the same weights.
        labelled_sha256: Of the labelled images: scores on others are not comparable.
        gate: The requirements.
    """
    if score is None:
        promoted = gate.without_labels == "promote"
        action = "promoted" if promoted else "held as a candidate"
        return (Check(promoted, f"there are no labelled images: {action}, as configured", "not measured"),)
    name = {"knn": "kNN", "linear": "linear probe"}[gate.measure]
    own = _points(score, gate)
    checks = []
    paired = partial(_paired, score, evaluation, gate)
    random, teacher = evaluation.score("random"), evaluation.score("teacher")
    if gate.min_gain_over_random is not None and random is None:
        checks.append(Check(True, "no random network was measured (evaluation.random.seeds: 0)", "not compared"))
    elif gate.min_gain_over_random is not None and random is not None:
        gain = own - _points(random, gate)
        checks.append(
            Check(
                gain >= gate.min_gain_over_random,
                f"{name} of {score.model} is {own:.1f}%, {_signed(gain)} over the random network "
                f"({_points(random, gate):.1f}%); at least {gate.min_gain_over_random:+.1f} is required"
                + noise(gain - gate.min_gain_over_random, gain, gate.measure, paired("random"), score, random),
            )
        )
    if gate.max_drop_from_teacher is not None and teacher is not None and score.kind == "student":
        drop = own - _points(teacher, gate)
        checks.append(
            Check(
                drop >= -gate.max_drop_from_teacher,
                f"{name} of {score.model} is {_signed(drop)} from its teacher ({_points(teacher, gate):.1f}%); "
                f"at most {gate.max_drop_from_teacher:.1f} below is allowed"
                + noise(drop + gate.max_drop_from_teacher, drop, gate.measure, paired("teacher"), score, teacher),
            )
        )
    if gate.max_drop_from_start is not None:
        checks.append(_against_start(score, name, evaluation, gate))
    if gate.max_drop_from_champion is not None:
        checks.append(_against_champion(score, name, champion, labelled_sha256, gate))
    return tuple(checks)


def _against_start(score: ModelScore, name: str, evaluation: EvaluationHandle, gate: PromotionConfig) -> Check:
    start = evaluation.score("start")
    if start is None:
        return Check(True, "training started from random weights: there are no starting weights", "not compared")
    assert gate.max_drop_from_start is not None
    drop = _points(score, gate) - _points(start, gate)
    one = _paired(score, evaluation, gate, "start")
    interval = ""
    if one is not None:
        interval = f" [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    return Check(
        drop >= -gate.max_drop_from_start,
        f"{name} of {score.model} is {_signed(drop)}{interval} from the weights that training started from "
        f"({_points(start, gate):.1f}%); at most {gate.max_drop_from_start:.1f} below is allowed"
        + noise(drop + gate.max_drop_from_start, drop, gate.measure, one, score, start),
    )


def _against_champion(
    score: ModelScore, name: str, champion: Champion | None, labelled_sha256: str | None, gate: PromotionConfig
) -> Check:
    if champion is None:
        return Check(True, "there is no other champion", "not compared")
    tagged = champion.tags.get(gate.measure)
    if tagged is None or champion.tags.get("labelled_sha256") != labelled_sha256:
        return Check(True, f"version {champion.version}, the champion, was measured on other images", "not compared")
    theirs = 100 * float(tagged)
    drop = _points(score, gate) - theirs
    assert gate.max_drop_from_champion is not None
    return Check(
        drop >= -gate.max_drop_from_champion,
        f"{name} is {_signed(drop)} from version {champion.version}, the champion ({theirs:.1f}%); "
        f"at most {gate.max_drop_from_champion:.1f} below is allowed"
        + noise(drop + gate.max_drop_from_champion, drop, gate.measure, None, score),
    )


def _paired(score: ModelScore, evaluation: EvaluationHandle, gate: PromotionConfig, other: str) -> Difference | None:
    """The difference from a row of another kind on the same images, with its interval, where it was worked out."""
    found = evaluation.gains.get(f"{'teacher' if score.kind == 'teacher' else score.model}_over_{other}")
    return None if found is None else found.get(gate.measure)


def _points(score: ModelScore, gate: PromotionConfig) -> float:
    return 100 * (score.knn if gate.measure == "knn" else score.linear)


def _signed(points: float) -> str:
    return f"{points:+.1f} points"
