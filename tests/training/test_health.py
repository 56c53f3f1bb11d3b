"""The rules of the verdict, on histories of figures as the sample's trainings gave them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dinomill.training.health import Limits, Reading, State, earlier_step, judge

STEPS = 320


def reading(step: int, **figures: float) -> Reading:
    """A healthy look at the beginning of the sample's training, with changes."""
    start = Reading(
        step,
        effective_rank=81.4,
        similarity=0.30,
        class_rank=63.3,
        patch_rank=74.6,
        patch_likeness=0.764,
        patch_class_likeness=0.784,
        prototypes_used=31.3,
        agreement=0.24,
        neighbour_distance=0.385,
        copies_found=0.156,
        patches_found=0.226,
        distinct_images=160,
    )
    return replace(start, **figures)


# Measured: seed 0 of the sample's recipe.
HEALTHY = [
    reading(0),
    reading(20, effective_rank=85.6, patch_rank=76.5, patch_likeness=0.747, prototypes_used=50.4),
    reading(40, effective_rank=91.6, patch_rank=77.9, patch_likeness=0.739, prototypes_used=47.0, patches_found=0.218),
    reading(80, effective_rank=96.3, patch_rank=75.9, patch_likeness=0.765, prototypes_used=47.8, patches_found=0.204),
    reading(160, effective_rank=102, patch_rank=74.3, patch_likeness=0.782, prototypes_used=56.9, patches_found=0.208),
    reading(240, effective_rank=104, patch_rank=74.0, patch_likeness=0.785, prototypes_used=66.4, patches_found=0.205),
    reading(280, effective_rank=104.1, patch_rank=74.1, patch_likeness=0.785, prototypes_used=67.7),
    reading(320, effective_rank=104.2, patch_rank=74.1, patch_likeness=0.785, prototypes_used=67.6),
]


def states(looks: list[Reading]) -> list[State]:
    return [judge(looks[:count], steps=STEPS).state for count in range(1, len(looks) + 1)]


def test_a_healthy_run_is_first_too_early_and_never_bad() -> None:
    found = states(HEALTHY)
    assert found[:2] == [State.EARLY] * 2
    assert found[2:] == [State.HEALTHY] * 6
    assert "effective rank +10.2 since step 0" in judge(HEALTHY[:3], steps=STEPS).reason


def test_the_last_look_of_a_very_short_run_does_not_say_yet() -> None:
    assert "a run of 12 steps is too short to be judged" in judge([reading(0), reading(12)], steps=12).reason


def test_what_no_longer_rises_is_a_plateau_and_not_bad() -> None:
    longer = [*HEALTHY, *(reading(step, effective_rank=104.3) for step in (360, 400, 480))]
    verdict = judge(longer, steps=480)
    assert verdict.state is State.PLATEAU
    assert not verdict.state.bad
    assert "effective rank has not risen" in verdict.reason
    with_labels = [replace(look, knn=0.8083) for look in longer]
    assert judge(with_labels, steps=480).reason.startswith("kNN has not risen above 80.8%")


@pytest.mark.parametrize(
    ("last", "state", "word"),
    [
        # Without centering after 30 steps; at a hundred times the rate after 48; the masked term times 20 after 60.
        (reading(30, effective_rank=81.3, prototypes_used=5.95), State.COLLAPSING, "nearest to 6.0"),
        (reading(48, effective_rank=36.0, prototypes_used=20), State.COLLAPSING, "fell from 81.4 to 36.0"),
        (
            reading(60, effective_rank=78.1, patch_rank=70.7, patch_likeness=0.805),
            State.DECAYING,
            "patches of an image",
        ),
        # What a long run may do: class features gain, patches lose.
        (
            reading(200, effective_rank=104, patch_rank=50, patch_likeness=0.88),
            State.DECAYING,
            "0.880 from 0.764",
        ),
        (reading(200, effective_rank=104, patches_found=0.13), State.DECAYING, "13% of patches"),
        (reading(200, effective_rank=1.2), State.COLLAPSING, "look alike to the teacher"),
        (reading(200, similarity=0.999), State.COLLAPSING, "mean similarity 0.999"),
        (reading(200, effective_rank=math.nan), State.COLLAPSING, "look alike"),
    ],
)
def test_what_goes_wrong_is_named_with_its_reason_and_what_to_do(last: Reading, state: State, word: str) -> None:
    verdict = judge([reading(0), reading(10), last], steps=STEPS)
    assert verdict.state is state
    assert word in verdict.reason
    assert verdict.action
    assert str(verdict).startswith(f"{state.value}: ")


def test_only_what_is_alike_in_absolute_terms_may_end_a_run() -> None:
    assert not judge([reading(0), reading(30, prototypes_used=3)], steps=STEPS).collapsed
    assert judge([reading(0), reading(30, effective_rank=1.5)], steps=STEPS).collapsed
    strict = Limits(min_effective_rank=90)
    assert judge([reading(100)], steps=STEPS, limits=strict).collapsed


def test_an_untrained_network_that_tells_nothing_apart_is_too_early_and_later_a_collapse() -> None:
    alike = [reading(step, effective_rank=1.1, similarity=0.999, prototypes_used=1) for step in (0, 10, 40)]
    assert states(alike) == [State.EARLY, State.EARLY, State.COLLAPSING]
    # Once it told images apart, it is one at once.
    assert states([reading(0), replace(alike[1])])[-1] is State.COLLAPSING


def test_images_that_are_all_the_same_are_told_before_the_first_step() -> None:
    verdict = judge([reading(0, effective_rank=1, similarity=1, distinct_images=1)], steps=STEPS)
    assert verdict.state is State.COLLAPSING
    assert "same picture" in verdict.reason
    assert "curation" in verdict.action


def test_figures_that_could_not_be_taken_decide_nothing() -> None:
    looks = [Reading(step, 20.0 + step / 100, 0.3) for step in (0, 40, 80, 160)]
    assert states(looks) == [State.EARLY, State.EARLY, State.HEALTHY, State.HEALTHY]


def test_accuracy_decides_the_best_where_it_is_known() -> None:
    assert reading(0, knn=0.8).measure == ("knn", 0.8)
    assert reading(0).measure == ("effective_rank", 81.4)


def test_a_reading_survives_the_curve() -> None:
    known = reading(80, knn=0.5)
    assert Reading.of_row({"step": 80, "images": 2560, "loss": None, **known.row(), "verdict": "healthy"}) == known
    assert Reading.of_row({"step": 80, "loss": 3.0}) is None
    assert "knn" not in reading(0).row()


def test_patches_are_compared_with_the_look_at_half_of_the_steps() -> None:
    assert earlier_step([0, 15, 30, 60, 120], 240) == 120
    assert earlier_step([0, 15, 30, 60, 120], 60) == 30
    assert earlier_step([], 0) is None
    assert earlier_step([0], 15) == 0


def test_a_student_that_comes_nearer_to_its_teacher_from_random_weights_does_not_decay() -> None:
    """Measured: the untrained student's patches are less alike than its teacher's (0.745) will ever let them be."""
    looks = [
        reading(0, effective_rank=124, patch_rank=93.3, patch_likeness=0.581),
        reading(40, effective_rank=120, patch_rank=87.1, patch_likeness=0.667),
        reading(80, effective_rank=119, patch_rank=85.4, patch_likeness=0.724),
        reading(320, effective_rank=126, patch_rank=86.4, patch_likeness=0.711),
    ]
    alone = [judge(looks[:count], steps=STEPS).state for count in range(1, 5)]
    taught = [judge(looks[:count], steps=STEPS, distils=True).state for count in range(1, 5)]
    assert State.DECAYING in alone
    assert taught[-2:] == [State.HEALTHY] * 2 and not any(state.bad for state in taught)


def test_what_is_said_of_a_student_is_true_of_it() -> None:
    """A student that has come near to its teacher was told to set what distillation refuses, and that it was one."""
    level = [*HEALTHY, *(reading(step, effective_rank=104.2, prototypes_used=67.6) for step in (400, 460, 520, 560))]
    plateau = judge(level, steps=560, distils=True)
    assert plateau.state is State.PLATEAU
    assert "rises to about what its teacher has" in plateau.action and "its loss says" in plateau.action
    assert "it need not run longer" in judge(level, steps=560).action
    spoilt = judge([*HEALTHY[:3], reading(200, effective_rank=1.2)], steps=STEPS, distils=True)
    assert "look alike to the student" in spoilt.reason
    decays = [*HEALTHY[:3], reading(200, patch_rank=40.0, patch_likeness=0.95)]
    assert "objective `assignments`" in judge(decays, steps=STEPS, distils=True).action
    assert "objective" not in judge(decays, steps=STEPS).action


def test_the_first_figure_is_compared_with_nothing() -> None:
    first = judge([*HEALTHY[:3], reading(80, knn=0.74)], steps=STEPS).reason
    assert "kNN 74.0%" in first and "since" not in first
    later = judge([*HEALTHY[:3], reading(80, knn=0.74), reading(160, knn=0.78)], steps=STEPS).reason
    assert "(kNN +4.0 points since step 80)" in later
