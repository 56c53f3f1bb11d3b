"""The DAG run by Airflow itself: every stage a task, on this machine, with SQLite.

Airflow lives in an environment of its own, whose program DINOMILL_AIRFLOW names:

    python -m venv /tmp/airflow
    /tmp/airflow/bin/pip install apache-airflow==3.3.2 apache-airflow-providers-standard
    DINOMILL_AIRFLOW=/tmp/airflow/bin/airflow pytest tests/orchestration/test_airflow.py
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from dinomill.stages import STAGES
from tests.commands.programs import BIN, run
from tests.test_the_mill import handles, prepare

AIRFLOW = os.environ.get("DINOMILL_AIRFLOW", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not AIRFLOW, reason="DINOMILL_AIRFLOW names no airflow program"),
]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of an Airflow whose database and folder of DAGs are the test's."""
    folder = tmp_path / "airflow"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KEDRO", "AIRFLOW"))}
    environment |= {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "SCARF_ANALYTICS": "false",
    }
    airflow(environment, "db", "migrate")
    return environment


def airflow(environment: dict[str, str], *arguments: str, code: int = 0) -> str:
    done = subprocess.run([AIRFLOW, *arguments], env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == code, said[-6000:]
    return said


def mill(project: Path) -> Path:
    """A project in small that DVC takes."""
    prepare(project)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    run(project, "dvc", "init", "-q")
    run(project, "dinomill", "dvc", "sync", "--quiet")
    return project


def test_every_stage_runs_as_a_task(project: Path, home: dict[str, str]) -> None:
    mill(project)
    dags = Path(home["AIRFLOW_HOME"]) / "dags"
    run(project, "dinomill", "orchestrate", "airflow", "-o", str(dags / "mill.py"))
    assert str(BIN) in (dags / "mill.py").read_text(encoding="utf-8")
    errors = airflow(home, "dags", "list-import-errors")
    assert "No data found" in errors, errors
    listed = airflow(home, "tasks", "list", "dinomill")
    assert [line for line in listed.split() if line in STAGES] == sorted(STAGES)
    airflow(home, "dags", "test", "dinomill")
    assert len([path for path in handles(project) if path.parent.name != "seeds"]) >= len(STAGES)
    lock = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))
    assert set(STAGES) <= set(lock["stages"])
    client = MlflowClient(f"sqlite:///{project}/data/mlflow/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    (start,) = client.search_runs(experiments, "tags.stage = 'pipeline'")  # all tasks have one parent
    assert (start.info.run_name or "").startswith("dinomill ")


def test_a_task_that_fails_says_why_and_stops_those_after_it(project: Path, home: dict[str, str]) -> None:
    mill(project)
    dags = Path(home["AIRFLOW_HOME"]) / "dags"
    run(project, "dinomill", "orchestrate", "airflow", "--through", "kedro", "-o", str(dags / "mill.py"))
    path = project / "conf/base/sample/parameters.yml"
    path.write_text(path.read_text(encoding="utf-8").replace("originals:", "orignals:"), encoding="utf-8")
    # The first task is tried twice, the others never begin.
    text = (dags / "mill.py").read_text(encoding="utf-8").replace('"retries": 1', '"retries": 0')
    (dags / "mill.py").write_text(text, encoding="utf-8")
    done = subprocess.run([AIRFLOW, "dags", "test", "dinomill"], env=home, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "did you mean 'originals'" in said and "curation" not in "".join(map(str, handles(project)))
    assert not (project / "data/05_model_input").exists()
