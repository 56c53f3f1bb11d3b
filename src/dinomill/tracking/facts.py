"""What the store wrote down of a run: by whose code, on what machine, with which settings."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.tracking.connection import connect, tracking_errors
from dinomill.tracking.texts import as_text, flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARENT = "mlflow.parentRunId"
_CONFIGURATION = "configuration.yml"
_MISSING = object()
# With a dot and a network's name: what a run made.
_MADE = "weights_sha256"


@dataclass(frozen=True)
class RunFacts:
    """A run, with what was said of the start of the pipeline that it belongs to.

    Args:
        run_id: Its id.
        tags: Its own, over those of its parent.
        params: Settings by dotted name, as text.
        configuration: All settings as they were, where the parent kept them.
    """

    run_id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    configuration: Mapping[str, Any] = field(default_factory=dict)

    def differing(self, stage: str, now: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a stage that were others than now, dotted, with the values that they had.

        Args:
            stage: Whose.
            now: Its parameters, nested.
        """
        present = flatten(now)
        if kept := self.configuration.get(stage):
            return {name: value for name, value in flatten(kept).items() if present.get(name, _MISSING) != value}
        prefix = f"{stage}."
        said = {name.removeprefix(prefix): text for name, text in self.params.items() if name.startswith(prefix)}
        return {
            name: _value(text, present.get(name))
            for name, text in said.items()
            if name not in present or as_text(present[name]) != text
        }


def run_facts(tracking_uri: str, run_id: str) -> RunFacts | None:
    """What is known of a run; None where the store does not know it any more.

    Raises:
        MachineError: When the store cannot be reached.
    """
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        run = _run(client, run_id)
        if run is None:
            return None
        parent = _run(client, run.data.tags.get(_PARENT))  # None: it was purged, or there was none
    above = {} if parent is None else dict(parent.data.tags)
    kept = None if parent is None else run_artifact(tracking_uri, parent.info.run_id, _CONFIGURATION)
    configuration: dict[str, Any] = {}
    if kept is not None:
        import yaml

        configuration = yaml.safe_load(kept.read_text(encoding="utf-8")) or {}
    return RunFacts(run_id, {**above, **run.data.tags}, dict(run.data.params), configuration)


def _run(client: MlflowClient, run_id: str | None) -> Any | None:
    """MLflow's own; None where no run is named, or the store does not know it any more."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def run_of_weights(tracking_uri: str, weights_sha256: str) -> str | None:
    """The id of the newest run that made a network, whatever it called it; None where the store knows none.

    Raises:
        MachineError: When the store cannot be reached.
    """
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        for experiment in client.search_experiments():
            token = None
            while True:
                page = client.search_runs([experiment.experiment_id], page_token=token)
                for run in page:
                    if any(key.startswith(_MADE) and value == weights_sha256 for key, value in run.data.tags.items()):
                        return str(run.info.run_id)
                token = page.token
                if not token:
                    break
    return None


def run_artifact(tracking_uri: str, run_id: str, name: str) -> Path | None:
    """A file that a run kept, on this machine; None where it kept none of this name.

    Raises:
        MachineError: When the store cannot be reached.
    """
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        if name not in {one.path for one in client.list_artifacts(run_id)}:
            return None
        return Path(client.download_artifacts(run_id, name))


def _value(text: str, like: Any) -> Any:
    """A setting from the text that MLflow keeps of it."""
    if isinstance(like, list | tuple):
        return [_value(part, None) for part in text.split(", ")] if text else []
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
