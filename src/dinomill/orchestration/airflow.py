"""The stages as a DAG of Airflow 3: a Python file for its folder of DAGs.

Airflow's environment needs nothing of dinomill's, nor the other way round: a task is a command in the project's folder,
with the project's programs. Their requirements contradict each other too often to share one environment.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from dinomill.orchestration.tasks import Task
from dinomill.tracking.invocation import NAMED

_HEAD = '''"""{title}

Written by `{made_by}`; make it anew when stages or environments change. Put it into Airflow's folder of DAGs.
A task is stopped by SIGTERM: training saves and goes on from there when the task is tried again.
"""

import os

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = {project}  # as the machines that run tasks see it
PROGRAMS = {programs}

with DAG(
    dag_id={dag_id},
    description={title_text},
    schedule={schedule},
    catchup=False,
    max_active_runs=1,  # two runs would wait for each other's lock
    max_active_tasks=1,
    default_args={{"retries": 1, "cwd": PROJECT, "append_env": True, "do_xcom_push": False}},
    tags=["dinomill"],
    doc_md=__doc__,
):
    environment = {{
        "PATH": os.pathsep.join([PROGRAMS, os.environ["PATH"]]),
        # Airflow fills it in: all tasks of a run of the DAG have one parent run in MLflow.
        "{invocation}": "{{{{ dag.dag_id }}}} {{{{ run_id }}}}",
    }}
'''


def dag_id(env: str | None) -> str:
    """The DAG's name; an environment's own, so that several stand side by side."""
    return "dinomill" if env is None else f"dinomill_{env.replace('/', '.')}"


def dag(
    tasks: Sequence[Task], *, project: Path, programs: Path, env: str | None, schedule: str | None, made_by: str
) -> str:
    """The file's text.

    Args:
        tasks: The stages.
        project: The project's folder, where the commands run.
        programs: The folder of its programs, such as ``.venv/bin``.
        env: The environment.
        schedule: Airflow's: a cron expression or ``@daily``; None: on demand.
        made_by: The command that writes this file.
    """
    title = f"dinomill's stages{f' in the environment {env}' if env else ''}: from raw images to a served backbone."
    lines = [
        _HEAD.format(
            title=title,
            invocation=NAMED,
            made_by=made_by,
            project=_literal(str(project)),
            programs=_literal(str(programs)),
            dag_id=_literal(dag_id(env)),
            title_text=_literal(title),
            schedule="None" if schedule is None else _literal(schedule),
        )
    ]
    for task in tasks:
        # Airflow fills in what stands in double braces; no stage, environment or file has any.
        command = _literal(shlex.join(task.command))
        lines.append(f'    {task.name} = BashOperator(task_id="{task.name}", bash_command={command}, env=environment)')
    edges = [f"    {before} >> {task.name}" for task in tasks for before in task.after]
    return "\n".join([*lines, *([""] if edges else []), *edges]) + "\n"


def _literal(text: str) -> str:
    """A string of Python's, in the quotes that formatters like."""
    return json.dumps(text, ensure_ascii=False)
