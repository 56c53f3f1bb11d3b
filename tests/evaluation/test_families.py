"""A ConvNeXt student beside vision transformers: measured, shown and drawn at random like them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dinomill.evaluation.evaluate import evaluate
from dinomill.evaluation.networks import compared
from dinomill.handles import EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import save_backbone
from dinomill.storage.hashing import hash_file
from tests.evaluation.test_evaluate import configuration
from tests.models.test_convnext import network


@pytest.fixture(scope="module")
def both(students: StudentsHandle, tmp_path_factory: pytest.TempPathFactory) -> StudentsHandle:
    """The student that is there, and a ConvNeXt with a map of 2 x 2 places."""
    folder, model = tmp_path_factory.mktemp("conv"), network()
    weights = save_backbone(folder, model, PreprocessingConfig.square(16, (0.3,) * 3, (0.35,) * 3).section())
    changes = {"folder": folder, "name": "conv", "weights_sha256": hash_file(weights), "embed_dim": model.embed_dim}
    conv = students.students["small"].model_copy(
        update=changes | {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    )
    return students.model_copy(update={"students": {**students.students, "conv": conv}})


def test_it_is_measured_and_its_places_are_shown(
    labelled: Path, teacher: ModelHandle, both: StudentsHandle, tmp_path: Path
) -> None:
    handle = evaluate(str(labelled), teacher, both, configuration(tmp_path))
    assert EvaluationHandle.load(handle.folder) == handle
    rows = {score.model: score for score in handle.scores}
    assert [score.kind for score in handle.scores] == ["pixels", "random", "teacher", "student", "student"]
    assert 0.1 < rows["conv"].value("knn") <= 1
    assert "conv_over_teacher" in handle.gains
    patches = np.load(handle.folder / "patches" / "student-conv.npy")
    assert patches.shape == (5, 2, 2, 24)
    # A class token is what looks: the convolutional one has none.
    assert {path.stem for path in (handle.folder / "attention").iterdir()} == {"teacher", "student-small"}


def test_a_random_network_of_each_family_is_drawn(teacher: ModelHandle, both: StudentsHandle) -> None:
    config = configuration(Path("x")).random
    drawn = [row for row in compared(teacher, both, config, seed=0) if row.kind == "random"]
    assert len(drawn) == 2 * config.seeds
    widths = {row.build(torch.device("cpu"))(torch.zeros(1, 3, 16, 16)).cls.shape[1] for row in drawn}
    assert widths == {64, 24}
    assert len({row.identity for row in drawn}) == len(drawn)
    # Without another family it is the teacher's shape alone.
    alone = both.model_copy(update={"students": {"small": both.students["small"]}})
    assert [row.identity for row in compared(teacher, alone, config, seed=0) if row.kind == "random"] == [
        row.identity for row in drawn[: config.seeds]
    ]
