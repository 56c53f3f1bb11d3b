"""Everything that a store recorded of what came of what: runs with their data and networks, registered versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dinomill.tracking.connection import connect, tracking_errors
from dinomill.tracking.registry import DATASET_TAG, WEIGHTS_TAG, RegisteredVersion

_PAGE = 500
_MADE = f"{WEIGHTS_TAG}."

__all__ = ["DATASET_TAG", "WEIGHTS_TAG", "Recorded", "RecordedRun", "read_recorded"]


@dataclass(frozen=True)
class RecordedRun:
    """A run: what it used and what it made."""

    id: str
    name: str
    stage: str
    status: str
    day: str
    datasets: Mapping[str, str]  # sha256 of the manifest -> what it was used for
    made: Mapping[str, str]  # name of a network -> sha256 of its weights
    commit: str | None


@dataclass(frozen=True)
class Recorded:
    """What a store holds."""

    runs: list[RecordedRun] = field(default_factory=list)
    versions: list[RegisteredVersion] = field(default_factory=list)


def read_recorded(tracking_uri: str) -> Recorded:
    """Read every run of a stage, and every registered version.

    Raises:
        MachineError: When there is no such store, or it cannot be reached.
    """
    client = connect(tracking_uri, create=False)
    with tracking_errors(tracking_uri):
        experiments = [str(one.experiment_id) for one in _all(client.search_experiments)]
        runs = [_run(row) for row in _all(client.search_runs, experiments)] if experiments else []
        aliases: dict[tuple[str, int], list[str]] = {}
        for model in _all(client.search_registered_models):
            for alias, version in (model.aliases or {}).items():
                aliases.setdefault((model.name, int(version)), []).append(str(alias))
        rows = list(_all(client.search_model_versions))
    versions = [
        RegisteredVersion(
            row.name,
            int(row.version),
            tuple(sorted(aliases.get((row.name, int(row.version)), ()))),
            row.run_id or "",
            dict(row.tags),
        )
        for row in rows
    ]
    # MLflow gives the newest first.
    return Recorded(
        [run for run in reversed(runs) if run.stage], sorted(versions, key=lambda one: (one.name, one.version))
    )


def _all(search: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """Every page of what a search finds."""
    token = None
    while True:
        page = search(*arguments, max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _run(row: Any) -> RecordedRun:
    tags = row.data.tags
    used: dict[str, str] = {}
    for one in getattr(row.inputs, "dataset_inputs", None) or ():
        with suppress(ValueError, TypeError, AttributeError):
            digest = json.loads(one.dataset.profile).get("sha256")
            context = {tag.key: tag.value for tag in one.tags}.get("mlflow.data.context", "")
            if digest:
                used[str(digest)] = context
    return RecordedRun(
        id=row.info.run_id,
        name=row.info.run_name or "",
        stage=tags.get("stage", ""),
        status=row.info.status,
        day=datetime.fromtimestamp((row.info.start_time or 0) / 1000, UTC).date().isoformat(),
        datasets=used,
        made={name.removeprefix(_MADE): value for name, value in tags.items() if name.startswith(_MADE)},
        commit=tags.get("git_commit"),
    )
