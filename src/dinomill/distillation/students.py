"""What students share with their teacher and with the crops; apart from the training, whose modules load torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dinomill.distillation.config import DistillationConfig, StudentConvNeXt, StudentModel
from dinomill.errors import ConfigError
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.convnext_config import ConvNeXtConfig
from dinomill.models.kinds import ModelConfig
from dinomill.training.config import InitialisationConfig
from dinomill.training.job import TrainingRecipe
from dinomill.training.starting import resolve_model

_FEWEST = 8  # patches a side of a global crop


def resolve_students(config: DistillationConfig, teacher: Mapping[str, Any], name: str) -> dict[str, ModelConfig]:
    """The students' models, which see the teacher's channels, and patches of their own.

    Args:
        config: The stage's configuration.
        teacher: What is known of the teacher's shape: ``in_channels``, and ``patch_size`` where it has patches.
        name: What the teacher is called in messages.

    Raises:
        ConfigError: Naming the student and the key.
    """
    return {
        student: _resolved(config, model, teacher, f"distillation.students.{student}", name)
        for student, model in config.students.items()
    }


def _resolved(
    config: DistillationConfig, model: StudentModel | StudentConvNeXt, teacher: Mapping[str, Any], key: str, name: str
) -> ModelConfig:
    if model.in_channels not in (teacher["in_channels"], "auto"):
        raise ConfigError(
            f"{key}.in_channels is not the teacher's.",
            found=f"{model.in_channels}; the teacher {name} has {teacher['in_channels']}",
            action=f"set it to auto or {teacher['in_channels']}, or take it out: a student sees images as its teacher "
            "does, whatever the dataset holds",
        )
    if isinstance(model, StudentConvNeXt):
        return _convolutional(config, model, teacher["in_channels"], key)
    return _transformer(config, model, teacher, key)


def _convolutional(config: DistillationConfig, model: StudentConvNeXt, channels: int, key: str) -> ConvNeXtConfig:
    stride = model.patch_size
    said = f"a stem of {model.stem} and {len(model.dims)} stages: places of {stride} pixels, crops of"
    for place, pixels in crop_sides(config).items():
        if place.endswith("global_size") and pixels % stride:
            raise ConfigError(
                f"{key}: its places do not divide {place}.",
                found=f"{said} {pixels}",
                action=f"set distillation.{place} to {max(round(pixels / stride), 1) * stride}, or a smaller stem, or "
                "fewer stages",
            )
        if place.endswith("local_size") and pixels < stride:
            raise ConfigError(
                f"{key}: its places are larger than the local crops.",
                found=f"{said} {pixels} ({place})",
                action=f"set distillation.{place} to {stride} at least, or a smaller stem, or fewer stages",
            )
    shape = model.model_dump(exclude=set(InitialisationConfig.model_fields)) | {"in_channels": channels}
    return ConvNeXtConfig.parse(shape, where=key)


def crop_sides(recipe: TrainingRecipe) -> dict[str, int]:
    """The sizes of all crops that a student will see, by their keys; those of the first part of a run, too."""
    crops, low = recipe.crops, recipe.low_resolution
    sides = {"crops.global_size": crops.global_size}
    if low is not None:
        sides["low_resolution.global_size"] = low.global_size
    if crops.local_crops:
        sides["crops.local_size"] = crops.local_size
        if low is not None:
            sides["low_resolution.local_size"] = low.local_size
    return sides


def _transformer(
    config: DistillationConfig, model: StudentModel, teacher: Mapping[str, Any], key: str
) -> VisionTransformerConfig:
    patch = model.patch_size
    if patch == "auto":
        patch = teacher.get("patch_size") or _usual_patch(config.crops)
    for place, pixels in crop_sides(config).items():
        if pixels % patch:
            raise ConfigError(
                f"{key}.patch_size does not divide {place}.",
                found=f"patches of {patch} pixels, crops of {pixels}",
                action=f"set distillation.{place} to {max(round(pixels / patch), 1) * patch}, or other patches",
            )
    follows = {"image_size": config.crops.global_size, "patch_size": patch}
    filled = model.model_copy(
        update={field: value for field, value in follows.items() if getattr(model, field) == "auto"}
    )
    return resolve_model(filled, None, teacher["in_channels"], key=key)


def _usual_patch(crops: MultiCropConfig) -> int:
    """For a teacher without patches: the largest that fill all crops and leave eight a side of the global ones.

    14 for crops of 224 and 98 pixels, 16 for 224 and 96, 4 for 32 and 16.
    """
    common = math.gcd(crops.global_size, crops.local_size) if crops.local_crops else crops.global_size
    fitting = [size for size in range(1, common + 1) if common % size == 0 and crops.global_size // size >= _FEWEST]
    return max(fitting, default=common)
