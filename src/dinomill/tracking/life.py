"""The life of a run: opened by a stage, ended truly, taken up again by the next start of the same work."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dinomill.errors import DinomillError, Interrupted
from dinomill.tracking.connection import StoreAwayError, connect, experiment_id, resolve_uri, tracking_errors
from dinomill.tracking.invocation import PARENT_TAG, STAGE, current, parent_run
from dinomill.tracking.measures_of_machine import machine_measured
from dinomill.tracking.provenance import source_tags
from dinomill.tracking.run import Run, as_text
from dinomill.tracking.spool import Spool, imported_as, is_spooled

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# Tags: which process writes a run, and why one ended before its time.
PROCESS = "process"
REASON = "reason"
# Of a run that was taken up again: the start of the pipeline under which it began.
BEGAN_IN = "began_in"

_GONE = "the process ended without a word: it was killed, or memory ran out"

_SAME_SECONDS = 30.0
_TRAININGS = ("pretraining", "distillation")

# The run that this process has opened.
_open: list[Run] = []


@contextmanager
def open_run(
    stage: str,
    *,
    tracking_uri: str,
    experiment: str = "dinomill",
    tags: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
    artifact_root: str | None = None,
) -> Iterator[Run]:
    """Open the MLflow run of a stage; it ends as finished, failed or killed with the block, with the reason as a tag.

    Runs of the stage that a killed process of this machine has left open are ended first. Within an `invocation` it is
    a child of its run.

    Args:
        stage: The stage's name.
        tracking_uri: ``sqlite:///path`` or the address of a server.
        experiment: The MLflow experiment, created if need be.
        tags: Tags of the run; ``git_commit`` is added.
        params: The configuration, as nested mappings; secrets are left out.
        name: Of the run, for people; None: the stage's.
        artifact_root: Where a new experiment keeps its files; see `TrackingConfig`.

    Raises:
        MachineError: When the store cannot be reached.
    """
    uri = resolve_uri(tracking_uri)
    all_tags = source_tags(stage) | {PROCESS: this_process()}
    all_tags |= {name: as_text(value) for name, value in (tags or {}).items()}
    run = _opened(uri, experiment, stage, name or stage, all_tags, artifact_root)
    _open.append(run)
    status, reason = "FINISHED", None
    try:
        run.log_params(params or {})
        with machine_measured(run, training=stage in _TRAININGS):
            yield run
    except BaseException as error:
        status, reason = _how(error)
        raise
    finally:
        _open.remove(run)
        end_run(run, status, reason)


def _opened(uri: str, experiment: str, stage: str, name: str, tags: dict[str, str], artifact_root: str | None) -> Run:
    """A new run in the store; where that is a server which does not answer, one that is brought to it later."""
    try:
        client = connect(uri)
        experiment_key = experiment_id(client, uri, experiment, artifact_root)
        with tracking_errors(uri):
            _mark_left(client, experiment_key, stage)
            parent = _parent(client, experiment_key)
            if parent is not None:
                tags[PARENT_TAG] = parent
            created = client.create_run(experiment_key, run_name=name, tags=tags)
        return Run(client, created.info.run_id, uri, parent=parent)
    except StoreAwayError as error:
        if uri.startswith("sqlite:"):  # a file of this machine: what is in its way can be put right now
            raise
        spool = Spool.begin(uri, experiment, name, tags, current(), artifact_root)
        log.warning(
            "%s What this run records is kept in %s; `dinomill tracking sync` brings it there.", error, spool.folder
        )
        return Run(None, spool.run_id, uri)


def _parent(client: MlflowClient, experiment: str) -> str | None:
    """The run of the start of the pipeline that is at work; those of killed ones are ended."""
    if (at_work := current()) is None:
        return None
    _mark_left(client, experiment, STAGE)
    return parent_run(client, experiment, at_work, source_tags(STAGE) | {PROCESS: this_process()})


def _how(error: BaseException) -> tuple[str, str]:
    """The state of a run that an error ends, and the reason in words."""
    stopped = isinstance(error, KeyboardInterrupt | SystemExit | Interrupted)
    said = error.problem if isinstance(error, DinomillError) else str(error)
    reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return ("KILLED" if stopped else "FAILED"), reason


def end_run(run: Run, status: str, reason: str | None = None) -> None:
    """End a run; while another error is on its way to the user, a store that is away must not hide it.

    Args:
        run: What is written.
        status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        reason: Why, when it did not finish; a tag of the run.
    """
    if not run.writes:
        return
    try:
        run.leave_none()
        if reason is not None:
            run.set_tags({REASON: reason})
        run.write("end", status=status)
        if run.parent is not None and run.client is not None:
            with tracking_errors(run.tracking_uri):
                run.client.set_terminated(run.parent, status=status)
    except StoreAwayError as error:
        log.warning("The run of the whole start could not be ended in the store: %s", error)
    except DinomillError as error:
        if status == "FINISHED":
            raise
        log.warning("The run could not be ended in the store: %s", error)


def end_for(run: Run, process: int, status: str, reason: str) -> bool:
    """End a run in the name of the process that opened it, which is gone; not when another goes on in it already.

    Args:
        run: What is written.
        process: The number of the process that is gone.
        status: ``FAILED`` or ``KILLED``.
        reason: Kept as a tag.

    Returns:
        Whether it was ended.
    """
    if (client := run.client) is None or run.run_id is None:
        return False
    try:
        with tracking_errors(run.tracking_uri):
            writer = client.get_run(run.run_id).data.tags.get(PROCESS, "")
    except DinomillError as error:
        log.warning("The run could not be ended in the store: %s", error)
        return False
    if not writer.startswith(f"{process} "):
        return False
    end_run(run, status, reason)
    return True


def continue_run(earlier: str) -> bool:
    """Let what this process records go on in an earlier run, instead of the one that it has opened.

    Args:
        earlier: The id of the run.

    Returns:
        Whether it does: not when nothing is open, or the store has no such run.
    """
    if not _open or _open[-1].run_id == earlier:
        return False
    if _open[-1].spooled:
        return _continue_spooled(_open[-1], earlier)
    if is_spooled(earlier):  # begun while the store was away
        earlier = imported_as(earlier) or ""
    if not earlier or (client := _open[-1].client) is None:
        return False
    run, fresh = _open[-1], _open[-1].run_id or ""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(earlier)
    except MlflowException:
        return False
    if found.info.lifecycle_stage != "active":
        return False
    with tracking_errors(run.tracking_uri):
        # One that is deleted while it runs would run for ever, in the bin; and at no moment do two of them run.
        client.set_tag(fresh, REASON, f"goes on in the run {earlier}")
        client.set_terminated(fresh, status="KILLED")
        client.delete_run(fresh)
        _adopt(client, found, run.parent)
        client.set_tag(earlier, PROCESS, this_process())  # first: who was left of before does not end it any more
        client.update_run(earlier, status="RUNNING")
        if REASON in found.data.tags:
            client.delete_tag(earlier, REASON)
    run.become(earlier)
    os.environ["MLFLOW_RUN_ID"] = earlier
    return True


def _continue_spooled(run: Run, earlier: str) -> bool:
    """Go on in an earlier run that waits for its store as this one does."""
    if not is_spooled(earlier) or not Spool(earlier).journal.exists():
        return False
    Spool(run.run_id or "").remove()
    run.become(earlier)
    run.set_tags({PROCESS: this_process()})
    os.environ["MLFLOW_RUN_ID"] = earlier
    return True


def _adopt(client: MlflowClient, earlier: Any, parent: str | None) -> None:
    """Make an earlier run a child of the start that goes on in it; a tag keeps where it began."""
    before = earlier.data.tags.get(PARENT_TAG)
    if parent is None or parent == before:
        return
    if before is not None and BEGAN_IN not in earlier.data.tags:
        client.set_tag(earlier.info.run_id, BEGAN_IN, before)
    client.set_tag(earlier.info.run_id, PARENT_TAG, parent)


def _mark_left(client: MlflowClient, experiment: str, stage: str) -> None:
    """End the stage's runs whose process is gone without a word (SIGKILL): they would run for ever."""
    wanted = f"attributes.status = 'RUNNING' and tags.stage = '{stage}'"
    for left in client.search_runs([experiment], filter_string=wanted, max_results=100):
        if is_gone(left.data.tags.get(PROCESS, "")):
            client.set_tag(left.info.run_id, REASON, _GONE)
            client.set_terminated(left.info.run_id, status="KILLED")


def this_process() -> str:
    """This process, for whoever wants to know later whether it is still there."""
    import psutil

    return f"{os.getpid()} since {psutil.Process().create_time():.2f} on {socket.gethostname()}"


def is_gone(process: str) -> bool:
    """Whether a process of this machine has ended; of another machine's nothing is known."""
    import psutil

    words = process.split(" ")
    if len(words) != 5 or words[4] != socket.gethostname():
        return False
    with suppress(ValueError, psutil.Error):
        found = psutil.Process(int(words[0]))
        # The clock by which a process's beginning is told may be set meanwhile; numbers are not given anew so soon.
        other = abs(found.create_time() - float(words[2])) > _SAME_SECONDS
        return other or found.status() == psutil.STATUS_ZOMBIE
    return True


def attach(run_id: str | None = None, tracking_uri: str | None = None, *, background: bool = False) -> Run:
    """Join a run that another process opened, by ``MLFLOW_RUN_ID`` and ``MLFLOW_TRACKING_URI`` unless they are given.

    Only rank 0 (environment variable ``RANK``, as torchrun sets it) writes; elsewhere, and where there is no run, the
    result takes every call and does nothing.

    Args:
        run_id: MLflow's id of the run.
        tracking_uri: The store.
        background: Whether metrics are written by a thread.

    Raises:
        MachineError: When the store cannot be reached.
    """
    run_id = run_id or os.environ.get("MLFLOW_RUN_ID")
    uri = resolve_uri(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", ""))
    if not run_id or not uri or int(os.environ.get("RANK", "0")) != 0:
        return Run(None, None if run_id and is_spooled(run_id) else run_id, uri)
    if is_spooled(run_id):
        return Run(None, run_id, uri)
    return Run(connect(uri), run_id, uri, background=background)
