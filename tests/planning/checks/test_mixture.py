from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dinomill.planning.checks.problems import Problem
from tests.planning.checks.conftest import stopping, write_pool

Found = Callable[..., list[Problem]]


def test_names_of_folders_of_the_pool_pass(root: Path, found: Found) -> None:
    write_pool(root / "raw/other", 60, side=36)
    mix = {"raw/other": 2, "raw/pool": 1}

    assert not stopping(found(settings={"pool": ["raw/pool", "raw/other"]}, pretraining={"mix": mix}))


def test_an_unknown_name_is_said_before_anything_runs(root: Path, found: Found) -> None:
    for stage in ("pretraining", "distillation"):
        (problem,) = stopping(found(**{stage: {"mix": {"raw/pol": 1, "others": 1}}}))
        assert problem.key == f"{stage}.mix"
        assert "raw/pol" in problem.problem
        assert "raw/pool (200)" in (problem.found or "")


def test_images_without_a_weight_are_said_too(root: Path, found: Found) -> None:
    write_pool(root / "raw/other", 60, side=36)

    (problem,) = stopping(found(settings={"pool": ["raw/pool", "raw/other"]}, pretraining={"mix": {"raw/pool": 1}}))

    assert problem.problem == "`mix` leaves 60 of 260 images without a weight."


def test_a_seed_set_counts_only_when_it_is_taken_whole(root: Path, found: Found) -> None:
    mix = {"examples": 1, "pool": 3}
    whole = {"retrieval": {"sets": {"examples": {"as_is": True}}}}

    assert not stopping(found(pretraining={"mix": mix}, curation=whole))
    (problem,) = stopping(found(pretraining={"mix": mix}))
    assert "no image: examples" in problem.problem


def test_a_weight_of_nothing_is_refused(root: Path, found: Found) -> None:
    (problem,) = stopping(found(pretraining={"mix": {"raw/pool": 0}}))
    assert "pretraining.mix.raw/pool" in problem.problem
