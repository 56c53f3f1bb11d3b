"""Writing to the store what was kept while it was away: each run whole, each line once, also after a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dinomill.errors import DinomillError, InputError, Interrupted
from dinomill.storage.lock import held
from dinomill.tracking.connection import RefusedError, StoreAwayError, connect, experiment_id, tracking_errors
from dinomill.tracking.invocation import PARENT_TAG, PROCESS, STAGE, Described, Invocation, parent_run
from dinomill.tracking.life import is_gone
from dinomill.tracking.operations import OPERATIONS
from dinomill.tracking.provenance import source_tags
from dinomill.tracking.spool import Spool, imported_as, is_spooled, remember, spool_folder, waiting

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SPOOLED = "spooled"
_UNFIT = (OSError, AttributeError, LookupError, TypeError, ValueError)  # of damaged lines, or another version's


@dataclass(frozen=True)
class Synchronised:
    """What was brought to the store of one run.

    Args:
        run_id: As the store calls it; as it was called here, where it was left.
        name: Of the run, where it was begun here.
        lines: Operations that were written.
        left: Why it was left for later; None: it was not.
        why: The error that says so, where one does.
    """

    run_id: str
    name: str
    lines: int
    left: str | None = None
    why: Exception | None = None


def synchronise(store: str | None = None) -> list[Synchronised]:
    """Write all that waits to the stores it is meant for.

    Args:
        store: Only what is meant for this one.

    Returns:
        What became of each run: one that its store refuses, or whose store does not answer, is left, and the others
        are brought.

    Raises:
        InputError: When another process does so.
        MachineError: When nothing could be brought, since no store could be reached.
    """
    busy = InputError("Another process is bringing runs to their store.", action="wait for its end")
    if not waiting():
        return []
    away: dict[str | None, StoreAwayError] = {}
    with held(spool_folder() / "sync.lock", busy):
        found = [_brought(spool, away) for spool in waiting() if store is None or _store(spool) in (None, store)]
    refused = [one.why for one in found if isinstance(one.why, RefusedError)]
    if refused and len(refused) == len(found):
        raise refused[0]
    return found


def _brought(spool: Spool, away: dict[str | None, StoreAwayError]) -> Synchronised:
    """Bring a run; whatever is wrong with it or its store must not stop the others.

    Args:
        spool: What waits of it.
        away: Stores that did not answer, which are not asked again; this one is added, if it does not either.
    """
    store = _store(spool)
    try:
        if store in away:
            raise away[store]
        return _written(spool)
    except Interrupted:
        raise
    except RefusedError as error:
        if isinstance(error, StoreAwayError):
            away[store] = error
        return _left(spool, _said(error), error)
    except (DinomillError, *_UNFIT) as error:
        return _left(spool, f"{_said(error)}; to give it up, remove {spool.folder}", error)


def _said(error: Exception) -> str:
    if isinstance(error, DinomillError):
        return " ".join(filter(None, (error.problem, error.found)))
    return f"{type(error).__name__}: {error}"


def _left(spool: Spool, why: str, error: Exception | None = None) -> Synchronised:
    lines = spool.lines()
    head = _head(lines)
    return Synchronised(spool.run_id, str(head.get("name", spool.run_id)), 0, why, error)


def _store(spool: Spool) -> str | None:
    """The store that it is meant for; None where its journal does not say it, which is everybody's to know."""
    found = _head(spool.lines()).get("uri")
    return found if isinstance(found, str) else None


def _head(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the first line says of the run; nothing where it is damaged."""
    head = lines[0].get("begin") if lines else None
    return head if isinstance(head, dict) else {}


def _written(spool: Spool) -> Synchronised:
    lines = spool.lines()
    head = _head(lines)
    if not isinstance(head.get("uri"), str):
        return _left(spool, "its first line is not whole; it says which store it belongs to")
    begins = "experiment" in head  # otherwise it goes on in a run that the store knows
    if begins and "end" not in lines[-1] and not is_gone(_process(lines)):
        return _left(spool, "it is still running")
    uri = str(head["uri"])
    client = connect(uri)
    first = done = max(spool.written, 1)
    with tracking_errors(uri):
        run_id, parent = _run(client, uri, spool, head) if begins else (_known_as(spool.run_id), None)
        while True:
            lines = spool.lines()
            for number, line in enumerate(lines[done:], done):
                _write(client, run_id, spool, line)
                if parent is not None and "end" in line:
                    OPERATIONS["end"](client, parent, **line["end"])
                spool.mark(number + 1)
            done = max(done, len(lines))
            if begins:
                remember(spool.run_id, run_id)
                if "end" not in lines[-1]:
                    client.set_terminated(run_id, status="KILLED")
            if spool.remove(done):  # unless the run has gone on meanwhile
                return Synchronised(run_id, str(head.get("name", spool.run_id)), done - first)


def _known_as(run_id: str) -> str:
    """What the store calls a run that goes on there.

    Raises:
        InputError: When it was begun without the store, and never brought to it.
    """
    known = imported_as(run_id) if is_spooled(run_id) else run_id
    if known is None:
        raise InputError(f"{run_id} goes on in a run that was never brought to its store.")
    return known


def _process(lines: Sequence[Mapping[str, Any]]) -> str:
    """The process that wrote last: a training may have gone on in the run."""
    found = [str(lines[0]["begin"].get("tags", {}).get(PROCESS, ""))]
    found += [line["tags"]["values"][PROCESS] for line in lines if PROCESS in line.get("tags", {}).get("values", {})]
    return found[-1]


def _write(client: MlflowClient, run_id: str, spool: Spool, line: Mapping[str, Any]) -> None:
    for operation, values in line.items():
        if operation == "artifacts":
            values = {**values, "path": str(spool.folder / values["path"])}
        if operation in OPERATIONS:
            OPERATIONS[operation](client, run_id, **values)


def _run(client: MlflowClient, uri: str, spool: Spool, head: Mapping[str, Any]) -> tuple[str, str | None]:
    """The run in the store, which is made unless an earlier try has made it; and its parent."""
    experiment = experiment_id(client, uri, str(head["experiment"]), head.get("artifact_root"))
    parent = None
    if kept := head.get("invocation"):
        described = Described(kept["tags"], kept["files"])
        at_work = Invocation(kept["key"], kept["name"], lambda: described)
        parent = parent_run(client, experiment, at_work, source_tags(STAGE) | {_SPOOLED: "true"}, began=head["started"])
    wanted = f"tags.{_SPOOLED} = '{spool.run_id}'"
    if found := client.search_runs([experiment], filter_string=wanted, max_results=1):
        return str(found[0].info.run_id), parent
    tags = {**head["tags"], _SPOOLED: spool.run_id} | ({PARENT_TAG: parent} if parent else {})
    created = client.create_run(experiment, start_time=head["started"], run_name=head["name"], tags=tags)
    return str(created.info.run_id), parent
