"""Writing to the store what was kept while it was away: each run whole, each line once, also after a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dinomill.errors import InputError
from dinomill.storage.lock import held
from dinomill.tracking.connection import connect, experiment_id, tracking_errors
from dinomill.tracking.invocation import PARENT_TAG, PROCESS, STAGE, Described, Invocation, parent_run
from dinomill.tracking.life import is_gone
from dinomill.tracking.operations import OPERATIONS
from dinomill.tracking.provenance import source_tags
from dinomill.tracking.spool import Spool, is_spooled, remember, spool_folder, waiting

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SPOOLED = "spooled"


@dataclass(frozen=True)
class Synchronised:
    """What was brought to the store of one run.

    Args:
        run_id: As the store calls it; as it was called here, where it was left.
        name: Of the run, where it was begun here.
        lines: Operations that were written.
        left: Why it was left for later; None: it was not.
    """

    run_id: str
    name: str
    lines: int
    left: str | None = None


def synchronise(store: str | None = None) -> list[Synchronised]:
    """Write all that waits to the stores it is meant for.

    Args:
        store: Only what is meant for this one.

    Raises:
        InputError: When another process does so.
        MachineError: When a store still cannot be reached; what was written stays written.
    """
    busy = InputError("Another process is bringing runs to their store.", action="wait for its end")
    if not waiting():
        return []
    with held(spool_folder() / "sync.lock", busy):
        return [_written(spool) for spool in waiting() if store is None or _store(spool) in (None, store)]


def _store(spool: Spool) -> str | None:
    """The store that it is meant for; None where its journal does not say it, which is everybody's to know."""
    lines = spool.lines()
    return lines[0].get("begin", {}).get("uri") if lines else None


def _written(spool: Spool) -> Synchronised:
    lines = spool.lines()
    head = lines[0].get("begin", {}) if lines else {}
    name = str(head.get("name", spool.run_id))
    if "uri" not in head:
        return Synchronised(spool.run_id, name, 0, "its first line is not whole; it says which store it belongs to")
    if is_spooled(spool.run_id) and "end" not in lines[-1] and not is_gone(_process(lines)):
        return Synchronised(spool.run_id, name, 0, "it is still running")
    uri = str(head["uri"])
    client = connect(uri)
    with tracking_errors(uri):
        run_id, parent = _run(client, uri, spool, head) if is_spooled(spool.run_id) else (spool.run_id, None)
        first = max(spool.written, 1)
        for number, line in enumerate(lines[first:], first):
            _write(client, run_id, spool, line)
            if parent is not None and "end" in line:
                OPERATIONS["end"](client, parent, **line["end"])
            spool.mark(number + 1)
        if is_spooled(spool.run_id) and "end" not in lines[-1]:
            client.set_terminated(run_id, status="KILLED")
    if is_spooled(spool.run_id):
        remember(spool.run_id, run_id)
    spool.remove()
    return Synchronised(run_id, name, len(lines) - first)


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
