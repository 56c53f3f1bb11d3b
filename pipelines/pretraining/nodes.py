"""The pretraining stage's node."""

from __future__ import annotations

from dinomill.handles import DatasetHandle, ModelHandle
from dinomill.pretraining.config import PretrainingConfig


def pretrain(curated: DatasetHandle, labelled: str | None, config: PretrainingConfig) -> ModelHandle:
    """Train the teacher in processes of its own; killed and started again, it continues where it was."""
    from dinomill.pretraining.pretrain import pretrain as train

    return train(curated, labelled, config)
