"""Results of two runs side by side are told apart."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinomill.handles import Handle, StudentsHandle
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


def _of_given(students: StudentsHandle) -> StudentsHandle:
    origin = {"teacher_sha256": "7" * 64, "origin": "distilled from efficientnet-lite0 (ImageNet)"}
    taught = {name: one.model_copy(update=origin) for name, one in students.students.items()}
    return students.model_copy(update={"students": taught, "given_teacher": True})


def test_students_of_a_given_teacher_are_not_made_of_pretrainings(run: Any, folders: dict[str, Path]) -> None:
    _keep(_of_given(run.handles.students), folders["students"])
    assert Left.in_folders(folders).earlier() == {}
    _keep(run.handles.teacher, folders["teacher"], weights_sha256="1" * 64)
    assert Left.in_folders(folders).earlier() == {}  # nothing of it is measured beside another teacher's students
    shutil.rmtree(folders["teacher"])
    assert Left.in_folders(folders).earlier() == {}


def test_a_page_calls_nobody_the_teacher_of_students_who_was_not(run: Any, output: Path) -> None:
    own = render_page(run.handles, run.config(output))
    assert "learnt to give the frozen teacher's answers" in own and "the teacher has" in own
    page = render_page(replace(run.handles, students=_of_given(run.handles.students)), run.config(output))
    assert "earlier run" not in page
    assert "did not teach the students here: distilled from efficientnet-lite0 (ImageNet)." in page
    for said in (
        "learnt to give the frozen teacher's answers",
        "the teacher has",
        "the teacher reaches",
        "its teacher",
    ):
        assert said not in page
    assert "the student nano, which is registered, reaches" in page
