"""The contract on the table of scores: alone, and as the stage meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.contract import check_tables
from dinomill.evaluation.evaluate import evaluate
from dinomill.handles import ModelHandle, StudentsHandle
from dinomill.quality.gate import QualityError
from dinomill.quality.handle import QualityHandle
from dinomill.scores import ModelScore, ScoreTable
from tests.tables import MEASURES, row

QUIET = {"gate": {"docs": False}}


def _score(model: str, kind: str, knn: float, linear: float = 0.5) -> ModelScore:
    return row(model, kind, knn=knn, linear=linear)


def _check(scores: tuple[ModelScore, ...], root: Path, **more: object) -> QualityHandle:
    config = _config(root, **more)
    return check_tables({"labelled": ScoreTable(scores=scores, measures=MEASURES)}, config)["labelled"]


def _config(root: Path, **more: object) -> EvaluationConfig:
    values = {"output": root / "out", "work": root / "work", "bootstrap": 200, "shown_queries": 2, "max_bank": 60}
    return EvaluationConfig.parse(values | {"max_queries": 30, "random": {"seeds": 0}} | more, where="the test")


def test_a_broken_table_is_refused_by_the_names_of_its_models(tmp_path: Path) -> None:
    scores = (_score("pixels", "pixels", 0.8), _score("vit", "teacher", 1.7), _score("nano", "pupil", 0.6))
    with pytest.raises(QualityError, match="'evaluation'") as caught:
        _check(scores, tmp_path)
    text = str(caught.value)
    assert "2 of its 5 expectations" in text
    assert "vit: knn=1.7" in text and "nano: kind=pupil" in text and "pixels:" not in text
    docs = tmp_path / "work" / "quality" / "docs" / "index.html"
    assert docs.is_file() and str(docs) in text


def test_a_good_table_goes_on(tmp_path: Path) -> None:
    scores = (_score("pixels", "pixels", 0.8), _score("vit", "teacher", 0.9))
    handle = _check(scores, tmp_path, **QUIET)
    assert (handle.rows, handle.total_rows, handle.docs) == (2, 2, None)
    found = json.loads((tmp_path / "work" / "quality" / "evaluation.json").read_text())
    assert found["rows"] == 2 and all(line.startswith("passed") for line in found["checks"])


def test_two_rows_of_one_model_and_an_empty_table_are_refused(tmp_path: Path) -> None:
    twice = (_score("vit", "teacher", 0.9), _score("vit", "student", 0.8))
    with pytest.raises(QualityError, match="1 of its 5") as caught:
        _check(twice, tmp_path, **QUIET)
    assert "model" in str(caught.value)
    with pytest.raises(QualityError):
        _check((), tmp_path, **QUIET)


def test_a_table_that_breaks_it_is_not_handed_on(
    tmp_path: Path, labelled: Path, teacher: ModelHandle, students: StudentsHandle
) -> None:
    namesake = students.students["small"].model_copy(update={"name": teacher.name})
    twins = students.model_copy(update={"students": {"small": namesake}})
    config = _config(tmp_path, gate={"docs": False})
    with pytest.raises(QualityError, match="'evaluation'"):
        evaluate(str(labelled), teacher, twins, config)
    assert not config.output.exists()
    assert (config.quality / "evaluation.json").is_file()


def test_the_stage_is_as_strict_as_its_configuration(
    tmp_path: Path, labelled: Path, teacher: ModelHandle, students: StudentsHandle
) -> None:
    config = _config(tmp_path, gate={"docs": False, "sample_above": 2})
    handle = evaluate(str(labelled), teacher, students, config)
    found = json.loads((config.quality / "evaluation.json").read_text())
    assert (found["rows"], found["total_rows"]) == (2, 3)
    assert not (config.quality / "docs").exists()
    # Another look at the same table hands on the same bytes: nothing after it has to run again.
    assert evaluate(str(labelled), teacher, students, _config(tmp_path)) == handle
    assert (config.quality / "docs" / "index.html").is_file()


def test_what_an_earlier_run_found_does_not_stand_beside_an_empty_table(
    tmp_path: Path, labelled: Path, teacher: ModelHandle, students: StudentsHandle
) -> None:
    config = _config(tmp_path, gate={"docs": False})
    evaluate(str(labelled), teacher, students, config)
    assert evaluate(None, teacher, students, config).scores == ()
    assert not (config.quality / "evaluation.json").exists()
