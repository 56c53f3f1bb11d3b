"""Results of two runs side by side are told apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dinomill.handles import Handle
from dinomill.reporting import build_report
from dinomill.reporting.lineage import Left
from dinomill.reporting.page import RunHandles, render_page

LATER = ["pretraining", "distillation", "evaluation", "registration", "packaging", "reporting"]


@pytest.fixture
def folders(run: Any, tmp_path: Path) -> dict[str, Path]:
    """A finished run, of which a test may change what it likes."""
    handles, found = run.handles, {}
    build_report(handles, run.config(tmp_path / "report"))
    for name in ("curated", "teacher", "students", "evaluation", "registration", "package"):
        found[name] = _keep(getattr(handles, name), tmp_path / name)
    return {**found, "report": tmp_path / "report"}


def _keep(handle: Handle, folder: Path, **changed: Any) -> Path:
    handle.model_copy(update={"folder": folder, **changed}).save()
    return folder


def test_a_finished_run_is_of_one_piece(run: Any, folders: dict[str, Path], output: Path) -> None:
    assert Left.in_folders(folders).earlier() == {}
    assert run.handles.earlier() == {}
    assert "earlier run" not in render_page(run.handles, run.config(output))


@pytest.mark.parametrize(
    ("name", "changed", "stage", "first"),
    [
        ("curated", {"manifest_sha256": "1" * 64}, "curation", 0),
        ("teacher", {"weights_sha256": "1" * 64}, "pretraining", 1),
        ("registration", {"version": 4}, "registration", 4),
    ],
)
def test_what_was_made_of_another_result_is_of_an_earlier_run(
    run: Any, folders: dict[str, Path], name: str, changed: dict[str, Any], stage: str, first: int
) -> None:
    _keep(getattr(run.handles, name), folders[name], **changed)
    why = f"{stage} has made another result since"
    assert Left.in_folders(folders).earlier() == dict.fromkeys(LATER[first:], why)


def test_other_students_make_evaluation_and_what_follows_old(run: Any, folders: dict[str, Path]) -> None:
    students = run.handles.students
    other = students.students["nano"].model_copy(update={"weights_sha256": "1" * 64})
    _keep(students, folders["students"], students={"nano": other})
    why = "distillation has made another result since"
    assert Left.in_folders(folders).earlier() == dict.fromkeys(LATER[2:], why)


def test_while_a_stage_runs_its_result_is_gone_and_those_after_it_are_old(folders: dict[str, Path]) -> None:
    shutil.rmtree(folders["teacher"])  # as DVC does when the stage begins
    why = "pretraining has no result at present"
    assert Left.in_folders(folders).earlier() == dict.fromkeys(LATER[1:], why)


def test_nothing_is_said_of_what_nobody_looked_for(run: Any, folders: dict[str, Path]) -> None:
    assert Left.in_folders({"evaluation": folders["evaluation"]}).earlier() == {}
    assert Left.in_folders({}).earlier() == {}


def test_a_page_of_two_runs_says_so(run: Any, output: Path) -> None:
    handles = run.handles
    teacher = handles.teacher.model_copy(update={"weights_sha256": "1" * 64})
    mixed = RunHandles(
        handles.curated, teacher, handles.students, handles.evaluation, handles.registration, handles.package
    )
    page = render_page(mixed, run.config(output))
    assert "Not all of this page is of one run." in page
    assert "distillation (pretraining has made another result since)" in page
