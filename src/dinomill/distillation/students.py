"""What students share with their teacher and with the crops; apart from the training, whose modules load torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinomill.distillation.config import DistillationConfig
from dinomill.errors import ConfigError
from dinomill.models.config import VisionTransformerConfig
from dinomill.training.starting import resolve_model


def resolve_students(
    config: DistillationConfig, teacher: Mapping[str, Any], name: str
) -> dict[str, VisionTransformerConfig]:
    """The students' models, which see the teacher's patches.

    Args:
        config: The stage's configuration.
        teacher: The teacher's model, as its ``config.json`` has it.
        name: What the teacher is called in messages.

    Raises:
        ConfigError: Naming the student and the key.
    """
    for student, model in config.students.items():
        for key in ("patch_size", "in_channels"):
            stated = getattr(model, key)
            if stated not in (teacher[key], "auto"):
                raise ConfigError(
                    f"distillation.students.{student}.{key} is not the teacher's.",
                    found=f"{stated}; the teacher {name} has {teacher[key]}",
                    action=f"set it to {teacher[key]}: both learn from the same patches of the same images",
                )
    follows = {"image_size": config.crops.global_size, "patch_size": teacher["patch_size"]}
    return {
        student: resolve_model(
            model.model_copy(update={key: value for key, value in follows.items() if getattr(model, key) == "auto"}),
            None,
            teacher["in_channels"],
            key=f"distillation.students.{student}",
        )
        for student, model in config.students.items()
    }
