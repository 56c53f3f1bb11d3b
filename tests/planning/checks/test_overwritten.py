from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.places import unfit_for_dvc
from tests.planning.checks.conftest import stopping

Ask = Callable[..., Request]
Found = Callable[..., list[Problem]]

CASES = [
    ({"distillation": {"teacher": "data/06_models/students/edge"}}, "distillation.teacher"),
    ({"pretraining": {"initial": "data/06_models/teacher"}}, "pretraining.initial"),
    ({"pretraining": {"initial": "data/06_models/teacher/start"}}, "pretraining.initial"),
    (
        {"curation": {"embedding": {"embedder": {"network": "data/04_feature/embeddings/mine.onnx"}}}},
        "curation.embedding.embedder.network",
    ),
    (
        {"evaluation": {"references": [{"network": "data/07_model_output/evaluation/mine.pth"}]}},
        "evaluation.references.0.network",
    ),
    (
        {"evaluation": {"sets": {"mine": {"labelled": "data/07_model_output/evaluation/mine"}}}},
        "evaluation.sets.mine.labelled",
    ),
]


@pytest.mark.parametrize(("parameters", "key"), CASES)
def test_a_network_where_its_reader_writes_is_refused(
    root: Path, found: Found, ask: Ask, parameters: dict[str, Any], key: str
) -> None:
    problem = next(one for one in stopping(found(**parameters)) if one.key == key)
    assert "lies in the folder that this stage writes" in problem.problem
    assert "copy it elsewhere" in str(problem.action)
    # DVC would delete it before the stage begins.
    assert [one.key for one in unfit_for_dvc(ask((), **parameters))] == [key]


def test_another_path_to_the_same_folder(root: Path, found: Found, backbone: Path) -> None:
    students = root / "data/06_models/students"
    students.parent.mkdir(parents=True)
    students.symlink_to(backbone.parent)
    (problem,) = [
        one
        for one in stopping(found(distillation={"teacher": backbone.as_posix()}))
        if one.key == "distillation.teacher"
    ]
    assert "lies in the folder that this stage writes" in problem.problem


def test_what_another_stage_writes_may_be_read(root: Path, ask: Ask) -> None:
    students = "data/06_models/students/edge"
    request = ask(
        distillation={"teacher": "data/06_models/teacher"},
        pretraining={"initial": "dinov2_vits14"},
        evaluation={"references": [{"network": students}, {"network": "models:/mine@champion"}]},
    )
    assert list(unfit_for_dvc(request)) == []
