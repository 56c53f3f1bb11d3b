"""The MLflow run of a stage, around the Kedro nodes that do it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from dinomill import tracking
from dinomill.variables import kept_environment


class StageRuns:
    """The MLflow run of the stage that runs now; its address stands in the environment while it is open."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self._open: ExitStack | None = None

    def begin(
        self,
        stage: str,
        *,
        tracking_uri: str,
        experiment: str,
        params: dict[str, Any],
        name: str | None = None,
        artifact_root: str | None = None,
    ) -> None:
        """Open a run and put its address where `dinomill.tracking.attach` looks."""
        opened = ExitStack()
        run = opened.enter_context(
            tracking.open_run(
                stage,
                tracking_uri=tracking_uri,
                experiment=experiment,
                params=params,
                name=name,
                artifact_root=artifact_root,
            )
        )
        opened.enter_context(kept_environment(*run.environment()))
        os.environ.update(run.environment())
        self._open, self.stage = opened, stage

    def end(self, error: BaseException | None = None) -> None:
        """Close the open run, if there is one, as finished or by what ended it."""
        if self._open is None:
            return
        opened, self._open, self.stage = self._open, None, None
        opened.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def stage_of(node: Any) -> str | None:
    """The stage that a Kedro node belongs to: the folder of ``pipelines/`` that its function comes from."""
    parts = str(getattr(node.func, "__module__", "")).split(".")
    return parts[2] if parts[:2] == ["dinomill", "pipelines"] and len(parts) > 2 else None
