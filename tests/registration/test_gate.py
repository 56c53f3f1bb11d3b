from __future__ import annotations

import pytest

from dinomill.errors import ConfigError
from dinomill.handles import EvaluationHandle
from dinomill.registration.config import PromotionConfig, RegistrationConfig
from dinomill.registration.decision import made_of
from dinomill.registration.gate import Champion, Check, judge
from dinomill.scores import Difference, Measure, ScoreTable
from tests.tables import row


def verdicts(evaluation: EvaluationHandle, champion: Champion | None = None, **changes: object) -> tuple[Check, ...]:
    gate = PromotionConfig.model_validate(changes)
    return judge(evaluation.score("student"), evaluation, champion, gate)


def test_a_good_student_passes_with_figures(evaluated) -> None:
    random, teacher, champion = verdicts(evaluated(student=0.8, teacher=0.82, random=0.6))
    assert random.passed
    assert random.sentence == (
        "kNN of small is 80.0%, +20.0 points over the random network (60.0%); at least +5.0 is required"
    )
    assert teacher.passed
    assert "-2.0 points from its teacher (82.0%)" in teacher.sentence
    assert champion.passed
    assert str(champion) == "not compared: there is no other champion"


@pytest.mark.parametrize(
    ("scores", "failed"),
    [({"random": 0.76}, 0), ({"teacher": 0.86}, 1), ({"student": 0.5}, 0)],
)
def test_each_requirement_can_fail(evaluated, scores: dict[str, float], failed: int) -> None:
    checks = verdicts(evaluated(**scores))
    assert not checks[failed].passed
    assert str(checks[failed]).startswith("FAILED: ")


def test_the_champion_is_compared_on_the_same_images_only(evaluated) -> None:
    tags = {"knn": "0.85", "linear": "0.81", "labelled_sha256": "e" * 64}
    evaluation = evaluated()
    assert not verdicts(evaluation, Champion(3, tags))[2].passed
    assert "-5.0 points from version 3" in verdicts(evaluation, Champion(3, tags))[2].sentence
    assert verdicts(evaluation, Champion(3, tags), measure="linear")[2].passed
    other = verdicts(evaluation, Champion(3, {**tags, "labelled_sha256": "f" * 64}))[2]
    assert other.passed
    assert str(other) == "not compared: version 3, the champion, was measured on other images"


def test_requirements_can_be_left_out(evaluated) -> None:
    checks = verdicts(
        evaluated(student=0.1), min_gain_over_random=None, max_drop_from_teacher=None, max_drop_from_champion=None
    )
    assert checks == ()


@pytest.mark.parametrize(("choice", "passed"), [("hold", False), ("promote", True)])
def test_without_labels_the_configuration_decides(evaluated, choice: str, passed: bool) -> None:
    (check,) = judge(None, evaluated(), None, PromotionConfig.model_validate({"without_labels": choice}))
    assert check.passed == passed
    assert str(check).startswith("not measured: there are no labelled images")


def test_no_worse_than_what_it_started_from(evaluated) -> None:
    asked = {"max_drop_from_start": 0, "max_drop_from_champion": None}
    plain = evaluated(student=0.8)
    assert "started from random weights" in verdicts(plain, **asked)[2].sentence
    start = row("raw pixels", "start", knn=0.805, linear=0.8)
    gain = {"knn": Difference(value=-0.005, low=-0.012, high=0.003), "linear": Difference(value=0, low=0, high=0)}
    found = plain.model_copy(update={"scores": (*plain.scores, start), "gains": {"small_over_start": gain}})
    check = verdicts(found, **asked)[2]
    assert not check.passed
    assert check.sentence == (
        "kNN of small is -0.5 points [-1.2, +0.3] from the weights that training started from (80.5%); "
        "at most 0.0 below is allowed; within the noise of these images, by which the difference may be -1.2 to +0.3 "
        "points: more labelled images would tell"
    )
    assert verdicts(found, max_drop_from_start=1)[2].passed
    assert len(verdicts(found)) == 3  # nothing is asked by default


def test_without_a_random_network_its_requirement_is_left_out_with_a_word(evaluated) -> None:
    plain = evaluated()
    found = plain.model_copy(update={"scores": tuple(score for score in plain.scores if score.kind != "random")})
    check = verdicts(found)[0]
    assert check.passed
    assert "evaluation.random.seeds" in check.sentence


def test_a_measure_that_was_not_taken_is_refused_by_name(evaluated) -> None:
    with pytest.raises(ConfigError, match="asks for miou") as raised:
        verdicts(evaluated(), measure="miou")
    assert "knn, linear" in str(raised.value)


def test_a_measure_of_a_further_set_can_decide_and_less_may_be_better(evaluated) -> None:
    plain = evaluated()
    error = Measure(name="rmse", title="RMSE", percent=False, unit="m", higher_is_better=False, high=None)
    rows = [("a", "random", 0.9), ("b", "teacher", 0.4), ("small", "student", 0.45)]
    depth = ScoreTable(scores=tuple(row(m, k, rmse=v) for m, k, v in rows), measures=(error,), labelled_sha256="d" * 64)
    found = plain.model_copy(update={"sets": {"rooms": depth}})
    gate = {"measure": "rooms/rmse", "min_gain_over_random": 0.4, "max_drop_from_teacher": 0.04}
    gained, dropped, _ = judge(depth.score("student"), found, None, PromotionConfig.model_validate(gate))
    assert gained.passed
    assert gained.sentence.startswith("RMSE of small is 0.450 m, -0.450 m over the random network (0.900 m)")
    assert not dropped.passed
    assert "+0.050 m from its teacher (0.400 m); at most 0.04 above is allowed" in dropped.sentence
    tags = {"rooms/rmse": "0.40", "rooms/labelled_sha256": "d" * 64}
    champion = judge(
        depth.score("student"), found, Champion(2, tags), PromotionConfig.model_validate({"measure": "rooms/rmse"})
    )[-1]
    assert champion.passed
    assert "version 2" in champion.sentence


def test_a_requirement_that_is_decided_within_noise_says_so(evaluated) -> None:
    """±2 points each: a student of 3.5 points below its teacher may as well be more than 5 below, and one of 20 not."""
    (close,) = verdicts(evaluated(student=0.785, teacher=0.82), min_gain_over_random=None, max_drop_from_champion=None)
    assert close.passed and "within the noise" in close.sentence and "-6.3 to -0.7 points" in close.sentence
    (far,) = verdicts(evaluated(student=0.5, teacher=0.82), min_gain_over_random=None, max_drop_from_champion=None)
    assert not far.passed and "noise" not in far.sentence
    tags = {"knn": "0.815", "linear": "0.81", "labelled_sha256": "e" * 64}
    against = verdicts(evaluated(), Champion(3, tags))[2]
    assert not against.passed and "within the noise" in against.sentence


def test_differences_on_the_same_images_are_held_against_the_requirement_where_they_are_known(evaluated) -> None:
    evaluation = evaluated(student=0.785, teacher=0.82)
    sure = {"knn": Difference(value=-0.035, low=-0.045, high=-0.025)}
    evaluation = evaluation.model_copy(update={"gains": {"small_over_teacher": sure}})
    (check,) = verdicts(evaluation, min_gain_over_random=None, max_drop_from_champion=None)
    assert check.passed and "noise" not in check.sentence


def test_a_student_is_not_held_against_a_network_that_did_not_teach_it(evaluated, students) -> None:
    """Its teacher was given; the row `teacher` is what pretraining made."""
    evaluation = evaluated(student=0.5, teacher=0.82).model_copy(update={"teacher_sha256": "a" * 64})
    gate = PromotionConfig(min_gain_over_random=None, max_drop_from_champion=None)
    taught = {"teacher_sha256": "b" * 64, "origin": "distilled from efficientnet-lite0"}
    other = students.students["small"].model_copy(update=taught)
    (check,) = judge(evaluation.score("student"), evaluation, None, gate, other)
    assert str(check) == (
        "not compared: the teacher of small, distilled from efficientnet-lite0, was not measured: the evaluation's "
        "teacher is another network"
    )
    own = other.model_copy(update={"teacher_sha256": "a" * 64})
    (check,) = judge(evaluation.score("student"), evaluation, None, gate, own)
    assert not check.passed and "from its teacher (82.0%)" in check.sentence


def test_a_decision_on_another_networks_figures_is_made_anew(evaluated, students) -> None:
    config = RegistrationConfig.model_construct(gate=PromotionConfig())
    evaluation, model = evaluated(), students.students["small"].model_copy(update={"teacher_sha256": "b" * 64})
    before = made_of(model, evaluation, config)
    assert made_of(model, evaluation.model_copy(update={"teacher_sha256": "b" * 64}), config) == before
    assert made_of(model, evaluation.model_copy(update={"teacher_sha256": "a" * 64}), config) != before
