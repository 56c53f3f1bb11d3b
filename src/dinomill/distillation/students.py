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
            action=f"set it to {teacher['in_channels']} or auto: both learn from the same images, of which "
            "curation.write.channels says how many channels they have",
        )
    if isinstance(model, StudentConvNeXt):
        return _convolutional(config, model, teacher["in_channels"], key)
    return _transformer(config, model, teacher, key)


def _convolutional(config: DistillationConfig, model: StudentConvNeXt, channels: int, key: str) -> ConvNeXtConfig:
    stride, crops = model.patch_size, config.crops
    if crops.global_size % stride:
        raise ConfigError(
            f"{key}: its places do not divide crops.global_size.",
            found=f"a stem of {model.stem} and {len(model.dims)} stages: places of {stride} pixels, crops of "
            f"{crops.global_size}",
            action=f"set distillation.crops.global_size to {max(round(crops.global_size / stride), 1) * stride}, or a "
            "smaller stem, or fewer stages",
        )
    if crops.local_crops and crops.local_size < stride:
        raise ConfigError(
            f"{key}: its places are larger than the local crops.",
            found=f"a stem of {model.stem} and {len(model.dims)} stages: places of {stride} pixels, local crops of "
            f"{crops.local_size}",
            action=f"set distillation.crops.local_size to {stride} at least, or a smaller stem, or fewer stages",
        )
    shape = model.model_dump(exclude=set(InitialisationConfig.model_fields)) | {"in_channels": channels}
    return ConvNeXtConfig.parse(shape, where=key)


def _transformer(
    config: DistillationConfig, model: StudentModel, teacher: Mapping[str, Any], key: str
) -> VisionTransformerConfig:
    patch = model.patch_size
    if patch == "auto":
        patch = teacher.get("patch_size") or _usual_patch(config.crops)
    crops = config.crops
    sizes = {"global_size": crops.global_size} | ({"local_size": crops.local_size} if crops.local_crops else {})
    for side, pixels in sizes.items():
        if pixels % patch:
            raise ConfigError(
                f"{key}.patch_size does not divide crops.{side}.",
                found=f"patches of {patch} pixels, crops of {pixels}",
                action=f"set distillation.crops.{side} to {max(round(pixels / patch), 1) * patch}, or other patches",
            )
    follows = {"image_size": crops.global_size, "patch_size": patch}
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
