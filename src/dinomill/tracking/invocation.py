"""One parent run for a start of the pipeline, with a run of each stage below it, whoever starts them.

``kedro run`` runs its stages in one process, ``dvc repro`` in a process each, an orchestrator on a machine each. They
find their parent by what they were all started by:

    DINOMILL_INVOCATION        any text, the same for all of them: what Airflow, Argo or a script sets
    the `dvc` process above    told by its number and its beginning; an experiment also by its name
    the process itself         otherwise

Nobody tells a stage that it is the last one: the parent runs while a stage does, and has the state that it left.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAMED = "DINOMILL_INVOCATION"
PARENT_TAG = "mlflow.parentRunId"
KEY_TAG = "invocation"
STAGE = "pipeline"
PROCESS = "process"
"""The tag that says which process writes a run."""

_GROUPS = ("exp", "experiments", "queue", "stage")


@dataclass(frozen=True)
class Invocation:
    """A start of the pipeline.

    Args:
        key: The same in all of its processes, and in no other start.
        name: What people call it: the parent's name.
        described: The parent's tags, and texts that it keeps by name; asked for when the parent is made.
    """

    key: str
    name: str
    described: Callable[[], Described] = lambda: Described()


@dataclass(frozen=True)
class Described:
    """What a parent run says of its start."""

    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


_at_work: ContextVar[Invocation | None] = ContextVar("invocation", default=None)


def current() -> Invocation | None:
    """The start of the pipeline that this process belongs to; None where nobody said that it does."""
    return _at_work.get()


@contextmanager
def invocation(at_work: Invocation) -> Iterator[None]:
    """Within the block, runs that are opened are children of a start of the pipeline."""
    token = _at_work.set(at_work)
    try:
        yield
    finally:
        # Kedro ends a session in another context than it began in, where a notebook drives it.
        with suppress(ValueError):
            _at_work.reset(token)


def started_by(own: str) -> tuple[str, str]:
    """The key of this start of the pipeline, and the command that people gave.

    Args:
        own: The command of this process, for when nothing stands above it.
    """
    if named := os.environ.get(NAMED, "").strip():
        return named, named
    host = socket.gethostname()
    if (above := _dvc_above()) is not None:
        number, began, command = above
        experiment = os.environ.get("DVC_EXP_NAME", "")
        return f"dvc {number} since {began:.2f} on {host} {experiment}".strip(), f"{command} {experiment}".strip()
    return f"process {os.getpid()} {uuid4().hex} on {host}", own


def _dvc_above() -> tuple[int, float, str] | None:
    """The outermost DVC command that this process runs in: its number, its beginning, and what was typed."""
    import psutil

    found = None
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            with suppress(psutil.Error):
                if (command := dvc_command(process.cmdline())) is not None:
                    found = process.pid, process.create_time(), command
    return found


def dvc_command(line: list[str]) -> str | None:
    """What a command line asks of DVC, in short: ``dvc repro``; None where it is none of DVC's."""
    for index, word in enumerate(line[:4]):
        module = index > 0 and line[index - 1] == "-m" and word == "dvc"
        if not module and Path(word).name != "dvc":
            continue
        verbs = [word for word in line[index + 1 :] if not word.startswith("-")]
        if not verbs:
            return None
        return " ".join(["dvc", *verbs[: 2 if verbs[0] in _GROUPS else 1]])
    return None


def parent_run(
    client: MlflowClient, experiment: str, at_work: Invocation, tags: dict[str, str], *, began: int | None = None
) -> str:
    """The id of the parent run, which is made when the first stage begins; it runs, from now on.

    Args:
        client: Of the store.
        experiment: Its id.
        at_work: The start of the pipeline.
        tags: Of a parent that is made now.
        began: When it began, milliseconds since 1970; None: now.
    """
    quoted = at_work.key.replace("'", "_")
    found = client.search_runs([experiment], filter_string=f"tags.{KEY_TAG} = '{quoted}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        if PROCESS in tags:  # the one that opened it has ended; this one would be missed
            client.set_tag(found[0].info.run_id, PROCESS, tags[PROCESS])
        return str(found[0].info.run_id)
    described = at_work.described()
    tags = tags | described.tags | {KEY_TAG: quoted, "stage": STAGE}
    created = str(client.create_run(experiment, began, tags, at_work.name).info.run_id)
    for name, text in described.files.items():
        client.log_text(created, text, name)
    return created
