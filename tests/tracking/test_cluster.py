"""Runs in a real PostgreSQL, their files in a real S3 server: what `conf/cluster` is made for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

from dinomill import tracking
from dinomill.errors import ConfigError, MachineError
from dinomill.layers import Layers
from dinomill.registration.config import RegistrationConfig
from dinomill.registration.page_length import LIMIT
from dinomill.registration.register import register_model
from dinomill.tracking.config import TrackingConfig
from dinomill.tracking.spool import waiting
from tests.postgres import PASSWORD, USER, postgres_server
from tests.registration.conftest import curated, evaluated, students, teacher  # noqa: F401
from tests.seaweedfs import ACCESS_KEY, SECRET, s3_server
from tests.tables import row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as port:
        yield f"postgresql://{USER}@127.0.0.1:{port}/mlflow"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as port:
        address = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=address, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET, region_name="x"
        )
        client.create_bucket(Bucket="runs")
        yield address


@pytest.fixture(autouse=True)
def _credentials(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPASSWORD": PASSWORD,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "x",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "DINOMILL_SPOOL": str(tmp_path / "spool"),
    }.items():
        monkeypatch.setenv(name, value)


def test_runs_models_and_files(postgres: str, tmp_path: Path, teacher, students, evaluated, curated) -> None:  # noqa: F811
    page = tmp_path / "page.html"
    page.write_text("a page")
    student = students.students["small"]
    with tracking.open_run(
        "distillation", tracking_uri=postgres, experiment="cluster", artifact_root="s3://runs/mlflow/"
    ) as run:
        run.log_metrics([(step, {"loss": 1.0}) for step in range(5)])
        run.log_artifacts(page)
        run.log_model_made("small", student.weights_sha256, {"steps": 5})
    config = RegistrationConfig.parse(
        {
            "output": tmp_path / "out",
            "name": "ours",
            "tracking": {"tracking_uri": postgres, "experiment": "cluster", "artifact_root": "s3://runs/mlflow"},
        },
        where="the test",
    )
    handle = register_model(teacher, students, evaluated(), curated, config)
    assert handle.aliases == ("candidate", "champion")
    client = MlflowClient(postgres)
    kept = client.get_run(str(run.run_id))
    assert kept.info.artifact_uri.startswith("s3://runs/mlflow/cluster/")
    assert [one.path for one in client.list_artifacts(str(run.run_id))] == ["page.html"]
    version = client.get_model_version_by_alias("ours", "champion")
    assert version.run_id == run.run_id  # one click from the version to its training
    folder = tracking.download("models:/ours@champion", postgres)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert register_model(teacher, students, evaluated(), curated, config) == handle


def test_a_card_of_thousands_of_characters_is_registered(
    postgres: str,
    tmp_path: Path,
    teacher,  # noqa: F811
    students,  # noqa: F811
    evaluated,  # noqa: F811
    curated,  # noqa: F811
) -> None:
    """PostgreSQL refused a page of more than 5,000; SQLite takes any."""
    measured = evaluated()
    many = tuple(row(f"network {number}", "reference", knn=0.5, linear=0.5, reach=0.02) for number in range(120))
    measured = measured.model_copy(update={"scores": (*measured.scores, *many)})
    tracked = {"tracking_uri": postgres, "experiment": "long", "artifact_root": "s3://runs/mlflow"}
    said = {"output": tmp_path / "out", "name": "long", "tracking": tracked}
    handle = register_model(teacher, students, measured, curated, RegistrationConfig.parse(said, where="the test"))
    client = MlflowClient(postgres)
    version = client.get_model_version("long", str(handle.version))
    assert "champion" in version.aliases
    assert 4000 < len(version.description) <= LIMIT and "The whole card: `cards/version.md`" in version.description
    (run,) = client.search_runs([client.get_experiment_by_name("long").experiment_id])
    whole = client.download_artifacts(run.info.run_id, "cards/version.md", str(tmp_path))
    assert len(Path(whole).read_text()) > 8000
    assert (
        register_model(teacher, students, measured, curated, RegistrationConfig.parse(said, where="the test")) == handle
    )


def test_a_wrong_password_is_said_before_anything_runs(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with (
        pytest.raises(MachineError, match="PGPASSWORD") as caught,
        tracking.open_run("curation", tracking_uri=postgres),
    ):
        pass
    assert "password authentication failed" in str(caught.value) and not waiting()


def test_a_wrong_secret_of_the_files_keeps_them_for_later(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("a page")
    with tracking.open_run(
        "curation", tracking_uri=postgres, experiment="later", artifact_root="s3://runs/mlflow"
    ) as run:
        for secret in ("wrong", SECRET):
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            _cached_get_s3_client.cache_clear()  # MLflow and boto3 keep who asked last
            boto3.setup_default_session()
            if secret == "wrong":
                run.log_artifacts(page)
    assert [one.run_id for one in waiting()] == [run.run_id]
    from dinomill.tracking.sync import synchronise

    (done,) = synchronise()
    assert done.left is None
    assert [one.path for one in MlflowClient(postgres).list_artifacts(str(run.run_id))] == ["page.html"]


def test_the_environment_is_complete() -> None:
    settings = Layers("cluster").globals
    config = TrackingConfig.parse(
        {key: settings[key] for key in ("tracking_uri", "experiment", "artifact_root")}, where="conf/cluster"
    )
    assert config.artifact_root is not None and config.artifact_root.startswith("s3://")
    with pytest.raises(ConfigError, match="a database keeps no files"):
        TrackingConfig.parse({"tracking_uri": config.tracking_uri}, where="the test")
