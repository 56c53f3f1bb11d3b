"""The version in use is a row of the table, where there is one and it is none of those that are measured anyway."""

from __future__ import annotations

from pathlib import Path

from dinomill.evaluation.config import RandomConfig
from dinomill.evaluation.evaluate import evaluate
from dinomill.evaluation.networks import compared
from dinomill.handles import ModelHandle, StudentsHandle
from dinomill.tracking import store_at_work
from tests.evaluation.test_evaluate import configuration
from tests.exported import export


def test_it_is_measured_and_the_others_are_held_against_it(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path
) -> None:
    used = export(tmp_path / "used", "used", depth=2, seed=9)
    changes = {"champion": str(used.folder), "random": {"seeds": 0}, "shown_queries": 0}
    handle = evaluate(str(labelled), teacher, students, configuration(tmp_path, **changes))
    assert [score.kind for score in handle.scores] == ["pixels", "champion", "teacher", "student"]
    champion, student = handle.score("champion"), handle.score("student")
    assert champion is not None and student is not None
    gain = handle.gains["small_over_champion"]["knn"]
    assert abs(gain.value - (student.value("knn") - champion.value("knn"))) < 1e-5
    assert gain.low <= gain.value <= gain.high


def test_none_is_no_row_and_the_network_itself_is_not_shown_twice(
    teacher: ModelHandle, students: StudentsHandle, tmp_path: Path
) -> None:
    with store_at_work(uri=f"sqlite:///{tmp_path}/mlflow.db"):
        for address in (None, "models:/mill@champion", str(students.students["small"].folder)):
            rows = compared(teacher, students, RandomConfig(seeds=0), champion=address, seed=0)
            assert [row.kind for row in rows] == ["pixels", "teacher", "student"]
