"""`dinomill orchestrate`: the stages as a graph of Airflow, Argo Workflows or a Kubernetes job."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from dinomill.commands.dvc_stages import EnvironmentStages
from dinomill.commands.dvc_sync import dvc_file
from dinomill.execution.launcher_config import KubernetesConfig
from dinomill.layers import Layers
from dinomill.orchestration import airflow, pods
from dinomill.orchestration.tasks import Task, Through, tasks_of
from dinomill.storage.atomic import write_text

KINDS = ("airflow", "argo", "kubernetes")


def orchestrate(
    kind: str,
    root: Path,
    *,
    env: str | None,
    output: Path | None,
    through: Through,
    schedule: str | None,
    pods_as: dict[str, Any],
) -> str:
    """Make the graph, write it where ``output`` says, and return its text.

    Args:
        kind: One of `KINDS`.
        root: The project's folder.
        env: The environment.
        output: The file; None: it is only returned.
        through: What runs a stage.
        schedule: When, as the scheduler writes it; None: on demand.
        pods_as: What was given of the pods; the rest is as ``pretraining.launcher.kubernetes`` says.

    Raises:
        ConfigError: When the configuration is not valid, or pods could not run what it asks for.
    """
    layers = Layers(env)
    tasks = tasks_of(EnvironmentStages(layers, root).stages(), env=env, file=dvc_file(env).as_posix(), through=through)
    made_by = shlex.join(["dinomill", "orchestrate", kind, *(["--env", env] if env else [])])
    if kind == "airflow":
        text = airflow.dag(tasks, project=root, programs=_programs(root), env=env, schedule=schedule, made_by=made_by)
    else:
        text = f"# Written by `{made_by}`; make it anew when stages or environments change.\n"
        text += yaml.safe_dump(_manifest(kind, tasks, layers, root, schedule, pods_as), sort_keys=False)
    if output is not None:
        write_text(output, text)
    return text


def _manifest(
    kind: str, tasks: list[Task], layers: Layers, root: Path, schedule: str | None, given: dict[str, Any]
) -> dict[str, Any]:
    pods.refuse_handing_on(layers.parameters)
    said = (layers.parameters.get("pretraining") or {}).get("launcher", {}).get("kubernetes") or {}
    config = KubernetesConfig.parse({**said, **given}, where=layers.origin, prefix="pretraining.launcher.kubernetes")
    make = pods.argo if kind == "argo" else pods.job
    return make(tasks, config, project=root, env=layers.env, schedule=schedule)


def _programs(root: Path) -> Path:
    """Where kedro and dvc lie: the project's environment, or the one that this runs in."""
    own = root / ".venv/bin"
    return own if own.is_dir() else Path(os.path.abspath(sys.executable)).parent  # noqa: PTH100 (links stay)


def next_step(kind: str, output: Path, env: str | None) -> str:
    """What to do with the file."""
    name = airflow.dag_id(env)
    return {
        "airflow": f"Copy {output} into Airflow's folder of DAGs, then `airflow dags trigger {name}`.",
        "argo": f"Hand it over: `kubectl create -f {output}`, then `argo watch @latest`.",
        "kubernetes": f"Hand it over: `kubectl create -f {output}`.",
    }[kind]
