"""The one door: from an address to what it holds, and to the network itself.

An address is a folder or a file of a backbone's weights of any known family, ``models:/name@alias``,
``efficientnet-lite0``, or a program (``.onnx``, OpenVINO's ``.xml``, torch.export's ``.pt2``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dinomill.features.backbone import BackboneFeatures, describe_weights
from dinomill.features.base import EFFICIENTNET, Description, Features
from dinomill.features.preprocessing import at_size
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models.address import locate

_ONNX, _OPENVINO, _PT2 = ".onnx", ".xml", ".pt2"
_PROGRAMS = (_ONNX, _OPENVINO, _PT2)


def describe(
    address: str | Path,
    *,
    preprocessing: PreprocessingConfig | None = None,
    image_size: int | None = None,
    **keywords: Any,
) -> Description:
    """What an address holds, from headers and shapes: no network is built.

    Args:
        address: See the module's head.
        preprocessing: Instead of the network's own.
        image_size: Pixels, instead of the network's own; a whole number of patches.
        **keywords: What some state dicts cannot say, as in ``dinomill.load``.

    Raises:
        InputError: When nothing is there, or it is no network that gives features: says what it is.
    """
    if str(address) == EFFICIENTNET:
        from dinomill.features.efficientnet import describe_efficientnet

        return _sized(describe_efficientnet(preprocessing), image_size)
    place = locate(address)
    if place.suffix in _PROGRAMS:
        return _open_program(str(address), place, preprocessing, image_size).description
    description, _ = describe_weights(str(address), place, preprocessing, shapes_only=True, **keywords)
    return _sized(description, image_size)


def open(  # noqa: A001 (called as features.open)
    address: str | Path,
    *,
    device: str = "cpu",
    preprocessing: PreprocessingConfig | None = None,
    image_size: int | None = None,
    **keywords: Any,
) -> Features:
    """The network of an address, in evaluation mode.

    Args:
        address: See the module's head.
        device: Where a torch network runs.
        preprocessing: Instead of the network's own.
        image_size: Pixels, instead of the network's own; a whole number of patches.
        **keywords: What some state dicts cannot say, as in ``dinomill.load``.

    Raises:
        InputError: When nothing is there, or it is no network that gives features: says what it is.
    """
    if str(address) == EFFICIENTNET:
        from dinomill.features.efficientnet import EfficientNetFeatures, describe_efficientnet

        return EfficientNetFeatures(_sized(describe_efficientnet(preprocessing), image_size)).to(device)
    place = locate(address)
    if place.suffix in _PROGRAMS:
        return _open_program(str(address), place, preprocessing, image_size).to(device)
    description, weights = describe_weights(str(address), place, preprocessing, shapes_only=False, **keywords)
    return BackboneFeatures(_sized(description, image_size), weights.build()).to(device)


def _open_program(
    address: str, place: Path, preprocessing: PreprocessingConfig | None, image_size: int | None
) -> Features:
    if place.suffix == _ONNX:
        from dinomill.features.onnx import open_onnx as open_program
    elif place.suffix == _PT2:
        from dinomill.features.pt2 import open_pt2 as open_program  # type: ignore[assignment]
    else:
        from dinomill.features.openvino import open_openvino as open_program  # type: ignore[assignment]
    return open_program(address, place, preprocessing, image_size)


def _sized(description: Description, side: int | None) -> Description:
    if side is None:
        return description
    patch = None if description.model is None else description.model.patch_size
    settings = at_size(description.preprocessing, side, patch=patch, where=description.address)
    return replace(description, preprocessing=settings)
