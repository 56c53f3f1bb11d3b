"""The distillation stage's node."""

from __future__ import annotations

from dinomill.distillation.config import DistillationConfig
from dinomill.handles import DatasetHandle, ModelHandle, StudentsHandle


def distil(
    curated: DatasetHandle, teacher: ModelHandle | None, labelled: str | None, config: DistillationConfig
) -> StudentsHandle:
    """Train the students in processes of their own; killed and started again, it continues where it was."""
    from dinomill.distillation.distil import distil as train

    return train(curated, teacher, labelled, config)
