"""What the pretraining stage can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dinomill.execution.launcher_config import LauncherConfig
from dinomill.training.config import AdaptationConfig, Address, PretrainingStepConfig, StatedModel
from dinomill.training.job import Runtime, TrainingRecipe


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
    adaptation: AdaptationConfig | None = Field(
        default=None,
        description="how weights to start from are treated: heads first, then the backbone at a lower rate; null: as "
        "random ones are",
    )
    runtime: Runtime = Field(default_factory=Runtime, description="how it is computed")
    launcher: LauncherConfig = Field(default_factory=LauncherConfig, description="how many processes, started by what")
