"""From distillation to the served archive: a ConvNeXt, and a vision transformer of other patches than its teacher's."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dinomill import features, tracking
from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import distil
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.evaluate import evaluate
from dinomill.export import export
from dinomill.handles import DatasetHandle, ModelHandle, StudentsHandle
from dinomill.images.sampled import sample_images
from dinomill.packaging import PackagingConfig, package_model
from dinomill.packaging.package import lineage_of
from dinomill.pretraining.config import PretrainingConfig
from dinomill.pretraining.pretrain import pretrain
from dinomill.registration.config import RegistrationConfig
from dinomill.registration.register import register_model
from dinomill.serving.cosine import worst_cosine
from dinomill.serving.predictor import Predictor
from tests.distillation.test_convolutional import CONVNEXT
from tests.distillation.test_distil import MODEL, shared

Trained = tuple[ModelHandle, StudentsHandle]


@pytest.fixture(scope="module")
def trained(digits_dataset: DatasetHandle, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    head = {"hidden_dim": 32, "bottleneck_dim": 16}
    values = shared(tmp_path_factory.mktemp("teacher")) | {"steps": 2, "licence": "CC-BY-4.0"}
    values |= {"model": MODEL | {"layerscale": 1.0}, "step": {"head": head | {"prototypes": 64}}}
    values |= {"masking": {"min_patches": 1}}
    teacher = pretrain(digits_dataset, None, PretrainingConfig.parse(values, where="a test"))
    values = shared(tmp_path_factory.mktemp("students")) | {"steps": 3, "step": {"head": head}}
    fine = MODEL | {"embed_dim": 16, "patch_size": 2, "layerscale": 1.0, "pooling": "cls+mean_patch"}
    values |= {"students": {"conv": CONVNEXT | {"pooling": "cls+mean_patch"}, "fine": fine}}
    return teacher, distil(digits_dataset, teacher, None, DistillationConfig.parse(values, where="a test"))


@pytest.mark.parametrize("name", ["conv", "fine"])
@pytest.mark.slow
def test_a_student_is_registered_exported_and_served_as_itself(
    trained: Trained, digits_dataset: DatasetHandle, tmp_path: Path, name: str
) -> None:
    teacher, students = trained
    students = students.model_copy(update={"champion": name})
    student = students.students[name]
    images = sample_images(digits_dataset, 6)
    expected = Predictor(student.folder)(images)
    assert expected.shape == (6, 32)

    # The licence of the teacher went with it.
    assert (student.licence, student.origin) == ("CC-BY-4.0", "distilled from teacher (trained from random weights)")
    assert json.loads((student.folder / "config.json").read_text())["licence"] == "CC-BY-4.0"

    evaluation = evaluate(
        None,
        teacher,
        students,
        EvaluationConfig.parse(
            {"work": tmp_path / "work", "output": tmp_path / "evaluation"},
            where="a test",
        ),
    )
    store = f"sqlite:///{tmp_path}/mlflow.db"
    registration = RegistrationConfig.parse(
        {
            "output": tmp_path / "registration",
            "name": "mill",
            "gate": {"without_labels": "promote"},
            "tracking": {"tracking_uri": store, "experiment": "test"},
        },
        where="a test",
    )
    registered = register_model(teacher, students, evaluation, digits_dataset, registration)
    assert registered.aliases == ("candidate", "champion")
    version = tracking.version_by_alias(store, "mill", "champion")
    assert version is not None
    assert version.tags["licence"] == registered.licence == "CC-BY-4.0"
    assert "| licence | CC-BY-4.0" in (registered.folder / "model_card.md").read_text()
    downloaded = tracking.download(registered.uri, store)
    np.testing.assert_array_equal(Predictor(downloaded)(images), expected)

    for form in ("safetensors", "pt2", "onnx", "openvino"):
        if form in ("onnx", "openvino"):
            pytest.importorskip("onnxruntime" if form == "onnx" else "openvino")
        exported = export(downloaded, form, tmp_path / form / "net")  # type: ignore[arg-type]
        assert exported.cosine >= 0.9999, form
        if form != "pt2":
            assert features.describe(exported.path).licence == "CC-BY-4.0"
            assert features.describe(exported.path).origin == student.origin
            assert worst_cosine(Predictor(exported.path)(images).tolist(), expected) >= 0.9999, form

    values = {"work": tmp_path / "work", "output": tmp_path / "package", "server": {"workers": 1, "threads": 1}}
    values |= {"smoke": {"images": 4, "requests": 2, "min_cosine": 0.9999}, "backend": {"choice": {"runtime": "eager"}}}
    with tracking.store_at_work(uri=store):
        package = package_model(registered, digits_dataset, PackagingConfig.parse(values, where="a test"))
        others = registered.model_copy(update={"weights_sha256": "f"})
        assert set(lineage_of(others)) == {"weights_sha256", "licence", "origin"}  # the number alone says nothing
    lineage = dict(package.lineage)
    when = datetime.fromisoformat(lineage.pop("registered"))
    assert timedelta(0) <= datetime.now(UTC) - when < timedelta(hours=1)
    assert lineage == {
        "weights_sha256": student.weights_sha256,
        "licence": "CC-BY-4.0",
        "origin": student.origin,
        "uri": "models:/mill/1",
        "run": version.run_id,
        "dataset_sha256": digits_dataset.manifest_sha256,
        "index_dataset_sha256": digits_dataset.manifest_sha256,
    }
    assert package.smoke["cosine"] >= 0.9999
    with zipfile.ZipFile(package.archive) as archive:
        assert json.loads(archive.read("config.json"))["licence"] == "CC-BY-4.0"
    assert "Licence of the weights: CC-BY-4.0. They were distilled from" in (package.folder / "README.md").read_text()
