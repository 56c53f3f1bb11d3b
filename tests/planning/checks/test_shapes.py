from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinomill.handles import DatasetHandle
from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.shapes import check_shapes, far_off
from tests.planning.checks.conftest import stopping

Ask = Callable[..., Request]
Found = Callable[..., list[Problem]]


def test_the_projects_own_sizes_agree(ask: Ask) -> None:
    assert list(check_shapes(ask())) == []


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"pretraining": {"crops": {"global_size": 30}}}, "pretraining.crops.global_size", "set it to 32"),
        ({"pretraining": {"crops": {"local_size": 15}}}, "pretraining.crops.local_size", "set it to 16"),
        ({"pretraining": {"crops": {"local_size": 36}}}, "pretraining.crops.local_size", "set local_size to 12"),
        ({"distillation": {"crops": {"global_size": 30}}}, "distillation.crops.global_size", "set it to 32"),
        (
            {"pretraining": {"low_resolution": {"global_size": 18, "local_size": 8}}},
            "pretraining.low_resolution.global_size",
            "set it to 16",
        ),
        (
            {"distillation": {"low_resolution": {"global_size": 16, "local_size": 10}}},
            "distillation.low_resolution.local_size",
            "set it to 8",
        ),
        ({"pretraining": {"masking": {"min_patches": 400}}}, "pretraining.masking.min_patches", "lower"),
        (
            {"pretraining": {"schedule": {"warmup": 9000}}},
            "pretraining.schedule.warmup",
            "lower `warmup`",
        ),
        (
            {"distillation": {"students": {"small": {"patch_size": 6}}}},
            "distillation.students.small.patch_size",
            "set distillation.crops.global_size to 30",
        ),
        (
            {"pretraining": {"model": {"in_channels": 1}}, "distillation": {"students": {"small": {"in_channels": 3}}}},
            "distillation.students.small.in_channels",
            "set it to auto or 1",
        ),
        (
            {"pretraining": {"step": {"losses": {"gram": {"start": 5000}}}}},
            "pretraining.step.losses.gram.start",
            "lower pretraining.step.losses.gram.start",
        ),
        ({"pretraining": {"model": {"num_heads": 3}}}, "pretraining.model", "correct the key"),
        ({"pretraining": {"model": {"image_size": 30}}}, "pretraining.model", "correct the key"),
        ({"pretraining": {"model": "from_weights"}}, "pretraining.model", "name them"),
    ],
)
def test_sizes_that_do_not_agree_are_refused(ask: Ask, changes: dict[str, Any], key: str, said: str) -> None:
    problems = stopping(list(check_shapes(ask(**changes))))
    assert [problem.key for problem in problems] == [key]
    assert said in str(problems[0].action)


@pytest.mark.parametrize(
    ("frozen", "ramp", "key", "said", "warning"),
    [
        (1.0, 0.1, None, "less than 1", False),
        (0.9999, 0.0, "pretraining.adaptation.frozen", "would never move", False),
        (0.6, 0.6, "pretraining.adaptation.ramp", "before the backbone learns at its full rate", True),
        (10_000, 0, "pretraining.adaptation.frozen", "longer than the run", False),
        (0.1, 0.1, None, "", False),
    ],
)
def test_an_adapted_backbone_moves(
    found: Found, ask: Ask, frozen: float, ramp: float, key: str | None, said: str, warning: bool
) -> None:
    changes = {"pretraining": {"adaptation": {"frozen": frozen, "ramp": ramp}}}
    problems = [one for one in found(**changes) if "adapt" in one.key or "adapt" in one.problem]
    there = {one.key for one in problems}
    assert ("pretraining.adaptation" in there) == (frozen != 1.0)  # there are no weights to adapt
    if key:
        (one,) = [one for one in problems if one.key == key]
        assert (said in one.problem, one.warning) == (True, warning)
    elif said:
        assert any(said in one.problem for one in problems)
    else:
        assert there == {"pretraining.adaptation"}


def test_a_model_from_weights_needs_some(found: Found) -> None:
    problems = stopping(found(pretraining={"model": "from_weights"}))
    assert any("no weights to start from are given" in one.problem for one in problems)


def test_a_grid_of_one_patch_hides_nothing(ask: Ask) -> None:
    request = ask(pretraining={"model": {"patch_size": 32}, "crops": {"local_crops": 0}}, stages=("pretraining",))
    assert [problem.key for problem in check_shapes(request)] == ["pretraining.masking.min_patches"]
    without = {"model": {"patch_size": 32}, "crops": {"local_crops": 0}, "step": {"losses": {"ibot_weight": 0}}}
    assert list(check_shapes(ask(pretraining=without, stages=("pretraining",)))) == []


def test_blocks_that_seldom_fit_are_a_warning(ask: Ask) -> None:
    (problem,) = check_shapes(ask(pretraining={"masking": {"min_patches": 40}}))
    assert problem.warning
    assert "Less than half" in problem.problem


def test_a_student_larger_than_its_teacher_is_a_warning(ask: Ask) -> None:
    (problem,) = check_shapes(ask(distillation={"students": {"small": {"embed_dim": 256}}}))
    assert problem.warning
    assert "larger than its teacher" in problem.problem


def test_students_are_held_against_the_teacher_that_is_there(root: Path, ask: Ask) -> None:
    folder = root / "data/06_models/teacher"
    folder.mkdir(parents=True)
    shape = {"patch_size": 32, "in_channels": 1, "embed_dim": 512, "depth": 6}
    (folder / "config.json").write_text(json.dumps({"model": shape}), encoding="utf-8")
    problems = stopping(list(check_shapes(ask(stages=("distillation",)))))
    assert [problem.key for problem in problems] == ["distillation.crops.local_size"]
    students = {"small": {"patch_size": 7}}
    problems = stopping(list(check_shapes(ask(("distillation",), distillation={"students": students}))))
    assert problems[0].found == "patches of 7 pixels, crops of 32"
    (folder / "config.json").write_text("damaged", encoding="utf-8")
    assert list(check_shapes(ask(stages=("distillation",)))) == []


def test_a_later_stage_under_way_finds_what_an_earlier_one_left(
    ask: Ask, digits_dataset: DatasetHandle, found: Found
) -> None:
    settings = ask().settings
    places = {"folders": {**settings["folders"], "curated": digits_dataset.folder.as_posix()}}
    problems = found(("pretraining",), settings=places, pretraining={"model": {"in_channels": 3}, "batch_size": 512})
    assert [(problem.key, problem.warning) for problem in problems] == [
        ("pretraining.model.in_channels", False),
        ("pretraining.batch_size", True),
    ]


def test_how_far_a_size_may_be_off() -> None:
    assert far_off(28, 28) is None
    assert far_off(112, 300) is None
    assert "keep one in 84" in str(far_off(28, 256))
    assert "enlarged 8 times" in str(far_off(224, 28))
