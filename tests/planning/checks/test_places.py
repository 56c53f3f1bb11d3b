from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.places import check_places, unfit_for_dvc
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


def test_results_among_the_images(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("dinomill.planning.checks.request.list_items", lambda place, _: read.append(place) or [])
    for change in ({"pool": ["."]}, {"pool": ["/"]}, {"seeds": {"examples": ".."}}, {"labelled": "data"}):
        read.clear()
        problems = [one for one in stopping(found(settings=change)) if "would be taken for images" in one.problem]
        assert [problem.key.split(".")[0] for problem in problems] == list(change)
        assert read == [
            place
            for place in ("raw/pool", "raw/seeds")
            if {"raw/pool": "pool", "raw/seeds": "seeds"}[place] not in change
        ]


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


def _odd(kind: str, pool: Path) -> None:
    if kind == "broken link":
        (pool / "x.png").symlink_to("missing")
    elif kind == "link to itself":
        (pool / "x.png").symlink_to("x.png")
    elif kind == "pipe":
        os.mkfifo(pool / "x.png")
    elif kind == "name":
        Path(os.fsdecode(os.fsencode(pool) + b"/caf\xe9.png")).write_bytes(b"")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("raw/pool/x.png")


@pytest.mark.parametrize("kind", ["broken link", "link to itself", "pipe", "name", "socket"])
def test_what_stops_dvc_is_named_before_dvc_is_asked(root: Path, ask: Ask, kind: str) -> None:
    assert not list(unfit_for_dvc(ask()))
    _odd(kind, root / "raw/pool")
    (problem,) = unfit_for_dvc(ask())
    assert problem.key == "pool"
    assert ("caf\\xe9.png" if kind == "name" else "raw/pool/x.png") in str(problem.found)
    assert "`kedro run` alone leaves it out and goes on" in str(problem.action)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_may_not_be_read_is_named_before_dvc_is_asked(root: Path, ask: Ask, kind: str) -> None:
    """DVC said "Permission denied" of a file, and nothing of a folder that it then left out."""
    place = root / "raw/pool/shut"
    place.mkdir() if kind == "folder" else place.write_bytes(b"x")
    place.chmod(0)
    code = """
import os
from pathlib import Path
from dinomill.planning.checks.places import _odd
print(list(_odd("raw/pool")))
"""
    done = subprocess.run([*unprivileged(), sys.executable, "-c", code], capture_output=True, text=True, check=False)
    place.chmod(0o755)
    assert done.stdout == "[('raw/pool/shut', 'file or folder without the right to read it')]\n", done.stderr
    assert not list(unfit_for_dvc(ask()))


def unprivileged() -> list[str]:
    """What to put before a command so that rights are asked of it too: root has all of them."""
    if os.geteuid() != 0:
        return []
    if (program := shutil.which("setpriv")) is None:
        pytest.skip("root may read everything, and there is no setpriv to be less")
    rights = "-dac_override,-dac_read_search"
    return [program, "--bounding-set", rights, "--inh-caps", rights]
