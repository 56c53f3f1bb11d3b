"""How an image is put to some weights: as an export says, a processor's file, or as the family was evaluated."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dinomill.errors import InputError
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.huggingface import PROCESSOR_NAME
from dinomill.models.known import named
from dinomill.models.loading import OURS, Weights
from dinomill.models.weights import CONFIG_NAME, read_config

# Of satellite images, which some of DINOv3 was trained on.
SAT_MEAN, SAT_STD = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
_SIDE, _MARGIN = 224, 256 / 224
# A batch of larger ones is tens of gigabytes of pixels alone.
_MOST_SIDE = 4096
# Every token is compared with every other: of an image of so many, one head's table has four thousand million entries.
MOST_TOKENS = 65_536


def preprocessing_of(weights: Weights) -> PreprocessingConfig:
    """The preprocessing of recognised weights.

    Raises:
        InputError: When an export says nothing of it, or a file beside the weights is broken.
    """
    if weights.family == OURS and weights.place.is_dir():
        return read_preprocessing(weights.place)
    if SECTION in weights.metadata:
        return _parsed(weights.metadata[SECTION], weights.place)
    usual = _usual(weights)
    processor = weights.paths[0].parent / PROCESSOR_NAME
    return _of_processor(processor, usual) if "Hugging Face" in weights.family and processor.is_file() else usual


def says_itself(weights: Weights) -> bool:
    """Whether the weights carry the preprocessing that they were trained for."""
    return weights.family == OURS and (weights.place.is_dir() or SECTION in weights.metadata)


def read_preprocessing(folder: Path) -> PreprocessingConfig:
    """The preprocessing that an exported backbone was trained for.

    Raises:
        InputError: When the export says nothing of it.
    """
    section = read_config(folder).get(SECTION)
    if section is None:
        raise InputError(
            f"{folder / CONFIG_NAME} has no section {SECTION!r}.",
            action="export the model with its preprocessing, or give preprocessing=…",
        )
    return PreprocessingConfig.parse(section, where=str(folder / CONFIG_NAME))


def at_size(settings: PreprocessingConfig, side: int, *, patch: int | None, where: str) -> PreprocessingConfig:
    """The same settings at another image size; the margin that is cut off stays in proportion.

    Args:
        settings: Of the network.
        side: Pixels.
        patch: The network's patch size, if it has one.
        where: The network, for messages.

    Raises:
        InputError: When the side is not a whole number of patches, is more of them than `MOST_TOKENS`, or beyond
            what anybody looks at in one piece.
    """
    if side > _MOST_SIDE:
        raise InputError(
            f"An image size of {side:,} pixels is more than can be put to {where} at once.",
            expected=f"{_MOST_SIDE:,} at most",
            action="give a smaller one; tiles of large images show more than one forward pass can",
        )
    if patch is not None and (side // patch) ** 2 > MOST_TOKENS:
        largest = min(math.isqrt(MOST_TOKENS), _MOST_SIDE // patch) * patch
        raise InputError(
            f"An image of {side:,} pixels is more patches of {patch} than can be put to {where} at once.",
            found=f"{(side // patch) ** 2:,} patches",
            expected=f"{MOST_TOKENS:,} at most: {largest:,} pixels is the largest size",
            action=f"give {largest} or less; tiles of large images show more than one forward pass can",
        )
    if patch is not None and side % patch:
        near = sorted({max(side // patch, 1) * patch, -(-side // patch) * patch})
        raise InputError(
            f"{where} sees patches of {patch} pixels, and {side} is no multiple of it.",
            expected=" or ".join(map(str, near)),
            action="give such an image size",
        )
    resize = max(round(side * settings.resize / settings.image_size), side)
    return settings.model_copy(update={"image_size": side, "resize": resize})


def _usual(weights: Weights) -> PreprocessingConfig:
    """What the family is evaluated with: 224 pixels out of 256, or the native grid where that is smaller."""
    config = weights.config
    native = config.image_size if isinstance(config, VisionTransformerConfig) else _SIDE
    side = max(min(native, _SIDE) // config.patch_size, 1) * config.patch_size
    resize = round(side * _MARGIN)
    if config.in_channels != 3:
        values = {"mean": (0.5,) * config.in_channels, "std": (0.25,) * config.in_channels}
        return PreprocessingConfig(image_size=side, resize=side, **values)
    if _is_of_satellites(weights):
        return PreprocessingConfig(image_size=side, resize=resize, mean=SAT_MEAN, std=SAT_STD)
    return PreprocessingConfig(image_size=side, resize=resize)


def _is_of_satellites(weights: Weights) -> bool:
    known = named(weights.place)
    if known is not None and known.family == "DINOv3":
        return known.name.endswith("sat493m")
    # Of the ViT-L only the one for satellite images was released with a norm for local crops.
    config = weights.config
    return isinstance(config, VisionTransformerConfig) and config.local_cls_norm and config.embed_dim == 1024


def _of_processor(path: Path, usual: PreprocessingConfig) -> PreprocessingConfig:
    """What a Hugging Face processor's file says, as far as it can be said here."""
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON.", found=str(error)) from None
    side = _side(told.get("crop_size")) if told.get("do_center_crop") else None
    resize = _side(told.get("size"))
    changes: dict[str, Any] = {}
    if told.get("image_mean") and told.get("image_std") and told.get("do_normalize", True):
        changes |= {"mean": tuple(told["image_mean"]), "std": tuple(told["image_std"])}
    if resize is not None or side is not None:
        image_size = side or resize
        changes |= {"image_size": image_size, "resize": max(resize or 0, image_size or 0)}
    return PreprocessingConfig.parse({**usual.model_dump(mode="json"), **changes}, where=str(path))


def _side(size: Any) -> int | None:
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    return int(size) if isinstance(size, int | float) and size else None


def _parsed(text: str, place: Path) -> PreprocessingConfig:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"The header of {place} describes no preprocessing.", found=str(error)) from None
    return PreprocessingConfig.parse(values, where=str(place))
