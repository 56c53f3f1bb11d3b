"""A distillation of another teacher does not wait for pretraining, in dvc.yaml and under Kedro."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.commands.dvc_stages import EnvironmentStages
from dinomill.datasets import HandleDataset
from dinomill.errors import InputError
from dinomill.handles import require
from dinomill.layers import Layers

PROJECT = Path(__file__).parents[2]
TEACHER = "data/06_models/teacher"


def deps(monkeypatch: pytest.MonkeyPatch, teacher: str | None) -> list[str]:
    monkeypatch.chdir(PROJECT)
    layers = Layers(None)
    layers.parameters["distillation"]["teacher"] = teacher
    return list(EnvironmentStages(layers, Path()).stages()["distillation"]["deps"])


@pytest.mark.parametrize("teacher", [None, "pretraining"])
def test_the_pipelines_own_teacher_is_waited_for(monkeypatch: pytest.MonkeyPatch, teacher: str | None) -> None:
    assert TEACHER in deps(monkeypatch, teacher)


def test_another_teacher_is_what_the_stage_depends_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "teacher.pth"
    weights.write_bytes(b"")
    found = deps(monkeypatch, str(weights))
    assert TEACHER not in found
    assert str(weights) in found
    assert TEACHER not in deps(monkeypatch, "efficientnet-lite0")


def test_a_result_that_is_optional_may_be_missing_until_a_stage_needs_it(tmp_path: Path) -> None:
    dataset = HandleDataset(str(tmp_path), "dinomill.handles.ModelHandle", optional=True)
    assert dataset.load() is None
    with pytest.raises(InputError, match="no result of the stage pretraining"):
        require(None, "pretraining")
