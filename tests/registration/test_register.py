from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

import dinomill
from dinomill import tracking
from dinomill.errors import InputError, MachineError
from dinomill.handles import DatasetHandle, ModelHandle, RegistrationHandle, StudentsHandle
from dinomill.packaging.package import chosen
from dinomill.registration.config import RegistrationConfig
from dinomill.registration.example import example_table
from dinomill.registration.register import register_model
from dinomill.serving.predictor import Predictor
from dinomill.storage.hashing import hash_file


def configuration(folder: Path, store: str, name: str, **changes: object) -> RegistrationConfig:
    values = {"output": folder / "registration", "name": name, "tracking": {"tracking_uri": store}, **changes}
    return RegistrationConfig.parse(values, where="the test")


@pytest.fixture
def registered(tmp_path, store, teacher, students, evaluated, curated, request) -> RegistrationHandle:
    return register_model(teacher, students, evaluated(), curated, configuration(tmp_path, store, request.node.name))


def test_the_version_is_complete(
    registered: RegistrationHandle, store: str, students: StudentsHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registered.passed_gate
    assert registered.aliases == ("candidate", "champion")
    assert registered.uri == f"models:/{registered.model}@champion"
    assert RegistrationHandle.load(registered.folder) == registered
    client = MlflowClient(store)
    version = client.get_model_version_by_alias(registered.model, "champion")
    student = students.students["small"]
    assert version.tags["weights_sha256"] == student.weights_sha256
    assert version.tags["dataset_sha256"] == "d" * 64
    assert float(version.tags["knn"]) == 0.8
    assert "| **small** | student |" in version.description
    assert "80.0 [78.0, 82.0]" in version.description
    assert "- **passed**: kNN of small is 80.0%" in version.description
    cards = {path.name: path.read_text(encoding="utf-8") for path in (registered.folder / "cards").iterdir()}
    assert set(cards) == {"teacher.md", "student-small.md"} and "### Energy" in version.description
    assert all("| recipe | unknown" in text and "### Limits" in text for text in cards.values())
    run = client.get_run(version.run_id)
    kept = {path.path for path in client.list_artifacts(version.run_id, "cards")}
    assert kept == {"cards/teacher.md", "cards/student-small.md", "cards/version.md"}
    assert run.info.status == "FINISHED"
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"curated", "labelled"}
    info = mlflow.models.get_model_info(f"models:/{registered.model}/{version.version}")
    assert info.signature is not None
    assert info.saved_input_example_info is not None
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in logged.metrics}["knn"] == 0.8


def test_it_is_loaded_and_predicts_as_the_export_does(
    registered: RegistrationHandle, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    table = pd.concat([example_table(3, 16), example_table(3, 40)], ignore_index=True)
    expected = Predictor(registered.source)(table["image"].tolist())
    served = mlflow.pyfunc.load_model(registered.uri)
    np.testing.assert_allclose(served.predict(table), expected, atol=1e-6)
    model = dinomill.load(registered.uri)
    assert model.embed_dim == 64
    by_address = Predictor(registered.uri)(table["image"].tolist())
    np.testing.assert_allclose(by_address, expected, atol=1e-6)


def test_nothing_in_the_artifacts_can_execute(registered: RegistrationHandle, store: str) -> None:
    folder = tracking.download(registered.uri, store)
    root = folder.parents[1]
    assert (root / "MLmodel").is_file()
    names = {path.name for path in root.rglob("*") if path.is_file()}
    assert {"model.safetensors", "config.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pth", ".pt", ".py", ".bin"))]


def test_again_is_the_same_version_unless_forced(
    tmp_path: Path, registered: RegistrationHandle, store: str, teacher, students, evaluated, curated
) -> None:
    again = register_model(teacher, students, evaluated(), curated, configuration(tmp_path, store, registered.model))
    assert again == registered
    forced = configuration(tmp_path, store, registered.model, force=True)
    assert register_model(teacher, students, evaluated(), curated, forced).version == registered.version + 1


def test_files_that_are_gone_make_a_new_version(
    tmp_path: Path, registered: RegistrationHandle, store: str, teacher, students, evaluated, curated
) -> None:
    shutil.rmtree(tracking.download(registered.uri, store))
    again = register_model(teacher, students, evaluated(), curated, configuration(tmp_path, store, registered.model))
    assert again.version == registered.version + 1
    assert tracking.download(again.uri, store).is_dir()


def test_a_worse_one_stays_a_candidate(
    tmp_path: Path, registered: RegistrationHandle, store: str, teacher, students, evaluated, curated
) -> None:
    worse = configuration(tmp_path, store, registered.model, network="teacher")
    handle = register_model(teacher, students, evaluated(teacher=0.75), curated, worse)
    assert not handle.passed_gate
    assert handle.aliases == ("candidate",)
    assert handle.uri == f"models:/{registered.model}@candidate"
    assert handle.gate[-1].startswith("FAILED: kNN is -5.0 points from version 1, the champion (80.0%)")
    champion = tracking.version_by_alias(store, registered.model, "champion")
    assert champion is not None
    assert champion.version == registered.version


def test_packaging_takes_a_version_or_an_alias(
    tmp_path: Path, registered: RegistrationHandle, store: str, teacher, students, evaluated, curated, monkeypatch
) -> None:
    worse = configuration(tmp_path, store, registered.model, network="teacher")
    last = register_model(teacher, students, evaluated(teacher=0.75), curated, worse)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert chosen(last, None) is last
    assert chosen(last, last.version) is last
    for named in (1, "1", "champion", " champion "):
        found = chosen(last, named)
        assert (found.version, found.weights_sha256, found.passed_gate) == (1, registered.weights_sha256, True)
        assert hash_file(found.source / "model.safetensors") == registered.weights_sha256
    for named in ("99", "nobody"):
        with pytest.raises(InputError, match=last.model):
            chosen(last, named)


def test_without_labels_it_is_held(tmp_path: Path, store: str, teacher, students, evaluated, curated) -> None:
    empty = evaluated().model_copy(update={"scores": (), "bank_images": 0, "query_images": 0})
    handle = register_model(teacher, students, empty, curated, configuration(tmp_path, store, "unmeasured"))
    assert not handle.passed_gate
    assert "no labelled images" in handle.gate[0]


def test_weights_that_were_not_measured_are_refused(
    tmp_path: Path, store: str, teacher: ModelHandle, students, evaluated, curated: DatasetHandle
) -> None:
    student = students.students["small"]
    shutil.copy(teacher.folder / "model.safetensors", student.folder / "model.safetensors")
    with pytest.raises(InputError, match="not the network that was evaluated"):
        register_model(teacher, students, evaluated(), curated, configuration(tmp_path, store, "other"))
    assert not (tmp_path / "registration").exists()


def test_an_alias_that_is_not_there_names_those_that_are(registered: RegistrationHandle, store: str) -> None:
    with pytest.raises(InputError) as caught:
        tracking.download("models:/nobody@champion", store)
    assert f"models:/{registered.model}@champion" in str(caught.value)
    with pytest.raises(InputError, match="names no registered model"):
        tracking.download("models:/nobody", store)
    with pytest.raises(MachineError, match="no tracking database"):
        tracking.download(registered.uri, "sqlite:////nowhere/at/all.db")


def test_a_store_that_was_removed_is_filled_again(
    tmp_path: Path, registered: RegistrationHandle, teacher, students, evaluated, curated
) -> None:
    fresh = f"sqlite:///{tmp_path}/fresh/mlflow.db"
    handle = register_model(teacher, students, evaluated(), curated, configuration(tmp_path, fresh, registered.model))
    assert handle.version == 1
    assert tracking.download(handle.uri, fresh).is_dir()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_example_is_an_image_of_the_right_kind(channels: int) -> None:
    from dinomill.images.decode import decode_image

    (data,) = example_table(channels, 12)["image"]
    assert decode_image(data, channels=channels).shape == (12, 12, channels)


def test_registering_prints_nothing_on_stdout(tmp_path: Path, registered: RegistrationHandle, store: str) -> None:
    code = (
        "import sys; from pathlib import Path; from dinomill import tracking\n"
        f"print(tracking.download({registered.uri!r}, {store!r}).name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (registered.source.name, "")


def test_secrets_never_reach_the_run(store: str) -> None:
    with tracking.open_run("registration", tracking_uri=store, params={"s3": "https://me:hunter2@host/b"}) as run:
        pass
    values = MlflowClient(store).get_run(str(run.run_id)).data.params
    assert values == {"s3": "https://…@host/b"}
    assert "hunter2" not in io.StringIO(str(values)).getvalue()
