"""`kedro run --env cluster` in small, on a real PostgreSQL and S3: runs, registry, lineage and promotion there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from fault_project import small_project
from mlflow import MlflowClient

from dinomill.registration.page_length import LIMIT
from tests.commands.programs import BIN, run
from tests.postgres import PASSWORD, USER, postgres_server
from tests.seaweedfs import ACCESS_KEY, SECRET, s3_server

pytestmark = pytest.mark.slow

STAGES = ("curation", "pretraining", "distillation", "evaluation", "registration")
ROOT = "s3://runs/mlflow"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with postgres_server() as port:
        yield f"postgresql://{USER}@127.0.0.1:{port}/mlflow"


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a machine of the team has in its environment."""
    with s3_server(tmp_path_factory.mktemp("s3")) as port:
        address = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=address, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET, region_name="x"
        )
        client.create_bucket(Bucket="runs")
        yield {
            "PGPASSWORD": PASSWORD,
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "x",
        }


@pytest.fixture(scope="module")
def project(store: str, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the stages have run: `conf/cluster` with two addresses of its own, in one process."""
    root = small_project(tmp_path_factory.mktemp("cluster") / "project")
    path = root / "conf/cluster/globals.yml"
    said = yaml.safe_load(path.read_text(encoding="utf-8")) | {"tracking_uri": store, "artifact_root": ROOT}
    path.write_text(yaml.safe_dump(said), encoding="utf-8")
    for stage in ("pretraining", "distillation"):
        path = root / f"conf/cluster/{stage}/parameters.yml"
        path.write_text(yaml.safe_dump({stage: {"launcher": {"kind": "inline", "threads": 1}}}), encoding="utf-8")
    run(root, "dinomill", "sample")
    done = subprocess.run(
        [BIN / "kedro", "run", "--env", "cluster", "--pipelines", ",".join(STAGES)],
        cwd=root,
        env=os.environ | variables | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(autouse=True)
def _variables(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def client(project: Path, store: str) -> MlflowClient:
    """Of the store, after the run."""
    return MlflowClient(store, registry_uri=store)  # else that of whoever connected before


def test_every_run_is_there_with_its_curves_and_files(client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("cluster")
    assert experiment.artifact_location == f"{ROOT}/cluster"
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (one for one in runs if "mlflow.parentRunId" not in one.data.tags)
    children = {one.info.run_name.split()[0]: one for one in runs if one is not parent}
    assert set(children) == set(STAGES) and len(runs) == 1 + len(STAGES)
    assert {one.data.tags["mlflow.parentRunId"] for one in children.values()} == {parent.info.run_id}
    assert {one.info.status for one in runs} == {"FINISHED"}
    assert all(one.info.artifact_uri.startswith(f"{ROOT}/cluster/") for one in runs)
    kept = {stage: {file.path for file in client.list_artifacts(one.info.run_id)} for stage, one in children.items()}
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"configuration.yml", "packages.txt"}
    assert "curation.html" in kept["curation"] and "scores.csv" in kept["evaluation"]
    assert {file.path for file in client.list_artifacts(children["registration"].info.run_id, "cards")} == {
        *("cards/teacher.md", "cards/student-small.md", "cards/version.md")
    }
    for stage in ("pretraining", "distillation"):
        curve = client.get_metric_history(children[stage].info.run_id, "loss")
        assert [one.step for one in curve] == [4, 8, 12, 16], stage


def test_the_versions_page_fits_and_leads_on(client: MlflowClient, tmp_path: Path) -> None:
    version = client.get_model_version_by_alias("dinomill-cluster", "champion")
    run_of_training = client.get_run(version.run_id)
    assert run_of_training.info.run_name.startswith("distillation · small")
    runs = client.search_runs([run_of_training.info.experiment_id])
    (registration,) = (one for one in runs if one.info.run_name.startswith("registration"))
    assert registration.info.run_name == "registration · version 1, champion"
    whole = Path(client.download_artifacts(registration.info.run_id, "cards/version.md", str(tmp_path))).read_text()
    assert len(version.description) <= LIMIT < len(whole)
    assert "Not here, for want of room: Recipe." in version.description
    assert "### Recipe" in whole and "### Recipe" not in version.description


def test_lineage_and_promotion(project: Path) -> None:
    told = run(project, "dinomill", "lineage", "1", "--env", "cluster")
    for words in (
        "models:/dinomill-cluster/1",
        "run distillation",
        "run pretraining",
        "curated by run",
        "taught in it",
    ):
        assert words in told
    own = ("--alias", "champion-prod", "--env", "cluster")
    assert "models:/dinomill-cluster@champion-prod is version 1 now" in run(project, "dinomill", "promote", "1", *own)
    assert "Nobody has the alias champion-prod" in run(project, "dinomill", "rollback", *own)
    shown = run(project, "dinomill", "versions", "--env", "cluster")
    assert "champion-prod  nobody → version 1" in shown and PASSWORD not in told + shown
