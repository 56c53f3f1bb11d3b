"""The stages, as Kedro pipelines: one folder of ``pipelines/`` each, found by its name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

from dinomill.errors import MachineError
from dinomill.stages import DEFAULT_STAGES, STAGES

__all__ = ["DEFAULT_STAGES", "STAGES", "register_pipelines"]


def register_pipelines() -> dict[str, Pipeline]:
    """Find the stages; ``__default__`` is all of them but the sample.

    Kedro loads only the requested stages when it runs some, hence ``__default__`` is there when all of them are.

    Raises:
        MachineError: When the project is not installed: Kedro alone would list no stage and run nothing.
        ImportError: When a stage's module cannot be imported.
    """
    if importlib.util.find_spec("dinomill.pipelines") is None:
        raise MachineError(
            "The dinomill project is not installed in this Python environment, so that its stages cannot be found.",
            found=f"no module dinomill.pipelines beside {Path(__file__).parent}",
            action="run `make setup`, or `pip install --no-deps --editable .` in the project's folder",
        )
    pipelines = {name: _named(name, one) for name, one in find_pipelines(raise_errors=True).items()}
    if set(DEFAULT_STAGES) <= set(pipelines):
        pipelines["__default__"] = sum((pipelines[stage] for stage in DEFAULT_STAGES), start=Pipeline([]))
    return pipelines


def _named(name: str, pipeline: Pipeline) -> Pipeline:
    """A stage's nodes under its name: as a tag (`kedro run --tags curation,pretraining`), and as a namespace.

    The picture of the pipelines folds a stage by its namespace. What stages hand on belongs to none of them.
    """
    return Pipeline(pipeline.tag(name), namespace=name, prefix_datasets_with_namespace=False)
