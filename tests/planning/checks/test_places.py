from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.places import check_places
from tests.planning.checks.conftest import stopping

Ask = Callable[..., Request]
Found = Callable[..., list[Problem]]


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"pool": ["raw/nowhere"]}, "pool", "There is no raw/nowhere"),
        ({"pool": ["raw/pool", "raw/notes.txt"]}, "pool", "not a source of images"),
        ({"pool": None}, "pool", "No pool of images"),
        ({"pool": [{"path": "raw/pool", "tiles": {"sid": 32}}]}, "pool", "did you mean 'side'"),
        ({"pool": [{"path": "raw/none", "tiles": {"side": 32}}]}, "pool", "There is no raw/none"),
        ({"pool": [{"path": "raw/broken.tar", "tiles": {"side": 32}}]}, "pool", "cannot be cut into tiles"),
        ({"pool": ["raw/broken.tar"]}, "pool", "not a readable tar"),
        ({"pool": ["raw/broken.parquet"]}, "pool", "cannot be read"),
        ({"pool": ["raw/table.csv"]}, "pool", "no column of paths"),
        ({"seeds": {"good": "raw/none"}}, "seeds.good", "There is no raw/none"),
        ({"seeds": {"good": "raw/empty"}}, "seeds.good", "is empty"),
        ({"seeds": "raw/seeds"}, "seeds", "no mapping"),
    ],
)
def test_sources_that_are_not_there(root: Path, found: Found, settings: dict[str, Any], key: str, said: str) -> None:
    (root / "raw/empty").mkdir()
    (root / "raw/notes.txt").write_text("notes", encoding="utf-8")
    (root / "raw/broken.tar").write_bytes(b"no tar" * 200)
    (root / "raw/broken.parquet").write_bytes(b"no parquet")
    (root / "raw/table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (problem,) = stopping(found(settings=settings))
    assert problem.key == key
    assert said in problem.problem


def test_settings_for_a_set_of_seeds_that_there_is_not(ask: Ask) -> None:
    (problem,) = check_places(ask(curation={"retrieval": {"sets": {"shoes": {"mode": "sample"}}}}))
    assert problem.key == "curation.retrieval.sets"
    assert "shoes" in problem.problem


def test_a_set_taken_whole_that_is_in_the_pool(ask: Ask) -> None:
    retrieval = {"sets": {"examples": {"as_is": True}}}
    settings = {"pool": ["raw/pool", "raw/seeds"]}
    (problem,) = check_places(ask(settings=settings, curation={"retrieval": retrieval}))
    assert "taken whole" in problem.problem


def test_images_in_a_folder_that_is_replaced(root: Path, found: Found, ask: Ask) -> None:
    place = root / "data/05_model_input/curated/mine"
    shutil.copytree(root / "raw/pool", place)
    (problem,) = stopping(found(settings={"pool": ["data/05_model_input/curated/mine"]}))
    assert "your images would be deleted" in problem.problem


def test_results_among_the_images(found: Found) -> None:
    for change in ({"pool": ["."]}, {"seeds": {"examples": ".."}}, {"labelled": "data"}):
        problems = [one for one in stopping(found(settings=change)) if "would be taken for images" in one.problem]
        assert [problem.key.split(".")[0] for problem in problems] == list(change)


def test_results_in_results(found: Found, ask: Ask) -> None:
    folders = {**ask().settings["folders"], "students": "data/06_models/teacher/students"}
    (problem,) = stopping(found(settings={"folders": folders}))
    assert problem.key == "folders.students"
    assert "lie in each other" in problem.problem


def test_a_file_where_a_folder_should_be(root: Path, found: Found) -> None:
    (root / "data").mkdir()
    (root / "data/06_models").write_text("", encoding="utf-8")
    (problem,) = stopping(found())
    assert "data/06_models is no folder" in str(problem.found)
    assert "teacher, students" in str(problem.found)


def test_a_link_into_nothing_where_a_folder_should_be(root: Path, found: Found) -> None:
    (root / "data").symlink_to(root / "not mounted")
    problems = stopping(found())
    assert len(problems) == 1
    assert "is no folder" in str(problems[0].found)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(root: Path, found: Found) -> None:
    (root / "data").mkdir(mode=0o555)
    (problem,) = stopping(found())
    assert "may not be written" in str(problem.found)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(root: Path, found: Found) -> None:
    (root / "raw/pool").chmod(0)
    try:
        assert "Cannot list the folder" in stopping(found())[0].problem
    finally:
        (root / "raw/pool").chmod(0o755)
