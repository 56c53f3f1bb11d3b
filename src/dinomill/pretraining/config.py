"""What the pretraining stage can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from dinomill.execution.launcher_config import LauncherConfig
from dinomill.training.config import AdaptationConfig, Address, PretrainingStepConfig, StatedModel
from dinomill.training.job import Runtime, TrainingRecipe

_TAGGED = re.compile(r"[\w.\-: ]+(/[\w\-: ]+)*")


class PretrainingConfig(TrainingRecipe):
    """A backbone from curated images, without labels."""

    work: Path = Field(
        description="folder of checkpoints and curves, outside DVC; each configuration has its own in it"
    )
    output: Path = Field(description="folder of the finished teacher; DVC's out")
    name: str = Field(
        default="teacher", min_length=1, description="what the network is called in tables and the registry"
    )
    model: StatedModel | Literal["from_weights"] = Field(
        description="shape of the backbone; from_weights: all of it from `initial`, which set keys must not contradict"
    )
    step: PretrainingStepConfig = Field(
        default_factory=PretrainingStepConfig, description="heads, losses, centering, precision"
    )
    initial: Address | None = Field(
        default=None,
        description="weights to start from: an exported folder, with its heads where they fit, an official .pth, "
        "models:/name@alias, or what else dinomill.load takes",
    )
    licence: str | None = Field(
        default=None,
        min_length=1,
        description="of the weights to start from, where nothing beside them says it; from random weights, the one "
        "that you choose; it goes wherever the model goes",
    )
    adaptation: AdaptationConfig | None = Field(
        default=None,
        description="how weights to start from are treated: heads first, then the backbone at a lower rate; null: as "
        "random ones are",
    )
    runtime: Runtime = Field(default_factory=Runtime, description="how it is computed")
    launcher: LauncherConfig = Field(default_factory=LauncherConfig, description="how many processes, started by what")

    @field_validator("name")
    @classmethod
    def _a_name_that_mlflow_tags(cls, name: str) -> str:
        # The run tags what it made under it: refused there, it would be so at the end of the training.
        if not _TAGGED.fullmatch(name):
            raise ValueError(
                f"the network's name {name!r} becomes a tag in MLflow: letters, digits, spaces, . _ - : only"
            )
        return name
