from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dinomill.handles import DatasetHandle, EvaluationHandle
from dinomill.registration.config import PromotionConfig
from dinomill.registration.decision import decision_tags, said
from dinomill.registration.example import example_table
from dinomill.registration.gate import Champion, Check, judge
from dinomill.registration.side_by_side import (
    SideBySide,
    agreement,
    asks_beside,
    compare_with,
    curated_images,
    judge_beside,
)
from dinomill.scores import Difference, Figure
from tests.tables import row


def test_neighbours_that_both_name() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    turned = rows @ np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0].astype(np.float32)
    np.testing.assert_array_equal(agreement(rows, 3 * turned), np.ones(60))  # angles are the same
    other = np.random.default_rng(2).normal(size=(60, 5)).astype(np.float32)
    by_chance = agreement(rows, other).mean()
    assert abs(by_chance - 10 / 59) < 0.05


def test_two_networks_on_the_same_images(teacher, students) -> None:
    images = [example_table(3, side)["image"][0] for side in range(16, 40)]
    same = compare_with(teacher.folder, teacher.folder, images)
    assert same.agreement == (1.0, 1.0, 1.0) and same.parameters == (teacher.parameters,) * 2
    other = compare_with(students.students["small"].folder, teacher.folder, images)
    assert other.agreement is not None and 0 < other.agreement[0] < 1 and other.images == 24
    assert other.milliseconds is not None and min(other.milliseconds) > 0
    few = compare_with(teacher.folder, teacher.folder, images[:10])
    assert few.agreement is None and few.milliseconds is None


def test_what_is_required_of_size_speed_and_neighbours() -> None:
    found = SideBySide((3_000_000, 1_000_000), (9.0, 6.0), (0.5, 0.45, 0.55), 256)
    told = judge_beside(found, 4, PromotionConfig())
    assert [check.word for check in told] == ["told"] * 3 and not asks_beside(PromotionConfig())
    assert "3.00 M parameters, 3.00 times those of version 4, the champion (1.00 M)" in told[0].sentence
    assert "50.0% [45.0, 55.0] of the 10 nearest neighbours of 256 curated images" in told[2].sentence
    strict = PromotionConfig(max_growth_from_champion=2.0, max_slowdown_from_champion=1.4, min_neighbour_agreement=60.0)
    assert asks_beside(strict) and [check.passed for check in judge_beside(found, 4, strict)] == [False] * 3
    easy = PromotionConfig(max_growth_from_champion=3.0, max_slowdown_from_champion=1.5, min_neighbour_agreement=50.0)
    assert all(check.passed for check in judge_beside(found, 4, easy))


def test_no_dataset_on_this_machine(curated: DatasetHandle) -> None:
    assert curated_images(curated, 8) == []


@pytest.mark.parametrize(("measured", "interval"), [("c" * 64, True), ("f" * 64, False)])
def test_the_champion_is_compared_on_the_same_images_where_evaluation_measured_it(
    evaluated, measured: str, interval: bool
) -> None:
    before = evaluated(student=0.80)
    gains = {"small_over_champion": {"knn": Difference(value=-0.03, low=-0.05, high=-0.01)}}
    rows = (*before.scores, row("champion", "champion", knn=0.83, linear=0.83, reach=0.02))
    evaluation = EvaluationHandle(**before.model_dump() | {"scores": rows, "gains": gains, "champion_sha256": "c" * 64})
    champion = Champion(3, {"weights_sha256": measured, "knn": "0.795", "labelled_sha256": "e" * 64})
    student = next(one for one in evaluation.scores if one.kind == "student")
    check = judge(student, evaluation, champion, PromotionConfig())[-1]
    assert check.about == "champion" and check.passed is not interval
    assert ("-3.0 points [-5.0, -1.0] from version 3, the champion (83.0%)" in check.sentence) is interval
    assert isinstance(student.scores["knn"], Figure)


def test_a_decision_is_kept_with_what_it_was_about() -> None:
    checks = (Check(True, "a"), Check(False, "b", None, "champion"), Check(True, "c", "not compared"))
    assert said(decision_tags("x", checks)) == checks
    old = {"checks": '[[true, "a", null]]'}  # of before it was kept
    assert said(old) == (Check(True, "a"),) and said({"checks": "[3]"}) is None
    assert dataclasses.replace(checks[0], about="champion").word == "passed"
