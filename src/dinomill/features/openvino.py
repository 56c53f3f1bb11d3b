"""An OpenVINO model (.xml and .bin) as features: one of our exports, or any with one image input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinomill.errors import InputError, MachineError
from dinomill.features.base import Description, Features, Tokens
from dinomill.features.licence import LICENCE, ORIGIN
from dinomill.features.programs import PATCH, POOLING, describe_program, tokens
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models.made_from import MADE_FROM

_BATCHES = 4096  # images in a batch, more than anybody computes at once


class OpenVinoFeatures(Features):
    """A program that OpenVINO runs on the CPU.

    Args:
        description: What it is.
        compiled: The compiled model.
    """

    def __init__(self, description: Description, compiled: Any) -> None:
        super().__init__(description)
        self._compiled = compiled
        self._outputs = [port.get_any_name() if port.get_names() else "" for port in compiled.outputs]

    @property
    def grid(self) -> int:
        """Places a side; 1 for a program that gives one vector an image."""
        settings = self.preprocessing
        patches = self(torch.zeros(1, settings.channels, settings.image_size, settings.image_size)).patches
        return 1 if patches is None else math.isqrt(patches.shape[1])

    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of ``[B, C, S, S]``."""
        answers = self._compiled(batch.detach().cpu().numpy())
        return tokens(self._outputs, list(answers.values()))


def open_openvino(
    address: str,
    place: Path,
    preprocessing: PreprocessingConfig | None,
    image_size: int | None = None,
    *,
    threads: int | None = None,
    fixed: bool = False,
    half: bool = False,
) -> OpenVinoFeatures:
    """Compile the model; it may be an ONNX file, too.

    Args:
        address: As it was asked for.
        place: The file.
        preprocessing: Instead of its own.
        image_size: Pixels, instead of its own.
        threads: Of the CPU; None: all.
        fixed: Images come in the size of the preprocessing alone, so that what follows from it is worked out once.
        half: Products in bfloat16, where the CPU has them.

    Raises:
        InputError: When OpenVINO is not installed, or cannot read the file.
        MachineError: When it cannot run it: some programs in 8 bits do not survive what it makes of them.
    """
    try:
        import openvino
    except ImportError:
        raise InputError(
            f"openvino is not installed, and {address} needs it.", action="pip install 'dinomill[openvino]'"
        ) from None
    core = openvino.Core()
    network = _read(core, place)
    description = _describe(network, address, place, preprocessing, image_size)
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32"}
    if threads is not None:
        settings |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    try:
        compiled = _compile(core, network, settings, description.preprocessing if fixed else None)
    except RuntimeError as error:
        raise MachineError(
            f"OpenVINO {openvino.__version__.partition('-')[0]} cannot run {place}.",
            found=_reason(str(error)),
            action="use another runtime, such as ONNX Runtime, or another precision",
        ) from None
    return OpenVinoFeatures(description, compiled)


def _read(core: Any, place: Path) -> Any:
    """The program, as OpenVINO holds it.

    Raises:
        InputError: When it cannot be read.
    """
    if place.suffix == ".xml":  # it reads ONNX as well
        _require_ir(place)
    try:
        return core.read_model(place)
    except RuntimeError as error:
        raise InputError(
            f"{place} is no OpenVINO model.",
            found=str(error).strip().splitlines()[-1],
            action="copy or export it again, with its .bin file beside it",
        ) from None


def _describe(
    network: Any, address: str, place: Path, preprocessing: PreprocessingConfig | None, image_size: int | None
) -> Description:
    # What it says of itself: OpenVINO keeps the metadata of an ONNX file under a name of its own.
    told = {
        key: network.get_rt_info([section, key]).astype(str)
        for key in (SECTION, POOLING, PATCH, LICENCE, ORIGIN, MADE_FROM)
        for section in ("dinomill", "framework")
        if network.has_rt_info([section, key])
    }
    _require_images(network, place)
    shape = [side.get_length() if side.is_static else -1 for side in network.inputs[0].get_partial_shape()]
    output = network.outputs[0].get_partial_shape()
    width = output[1] if len(output) == 4 else output[len(output) - 1]
    binary = place.with_suffix(".bin")
    return describe_program(
        address,
        place,
        family="OpenVINO",
        told=told,
        input_shape=shape,
        dim=width.get_length() if width.is_static else 0,
        parameters=sum(math.prod(node.shape) for node in network.get_ops() if _is_weight(node)),
        paths=(place, binary) if binary.is_file() else (place,),
        preprocessing=preprocessing,
        image_size=image_size,
    )


def _compile(core: Any, network: Any, settings: dict[str, Any], fixed: PreprocessingConfig | None) -> Any:
    """Compile it, for images of one size where that is known."""
    if fixed is None:
        return core.compile_model(network, "CPU", settings)
    image = [fixed.channels, fixed.image_size, fixed.image_size]
    network.reshape([-1, *image])
    try:
        return core.compile_model(network, "CPU", settings)
    except RuntimeError:
        # A ViT-S/14 in 8 bits at 280 pixels is refused (2026.4) for as long as the batch has no bound.
        network.reshape([(1, _BATCHES), *image])
        return core.compile_model(network, "CPU", settings)


def _reason(said: str) -> str:
    """What of a report of several lines is no place in OpenVINO's source."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Exception from")]
    return lines[0][:300] if lines else said.strip()[:300]


def _require_ir(place: Path) -> None:
    """Refuse what is no OpenVINO IR by its first bytes: the runtime would have every reader that it has try it.

    Raises:
        InputError: With what is there instead.
    """
    with place.open("rb") as file:
        head = file.read(4096)
    if b"<net" not in head:
        first = head.decode("utf-8", "replace").strip().splitlines()
        raise InputError(
            f"{place} is no OpenVINO model.",
            found=f"a file that begins with {first[0][:60]!r}" if first else "an empty file",
            expected="an XML file with the element <net>, and its .bin file beside it",
            action="copy or export it again",
        )


def _require_images(network: Any, place: Path) -> None:
    """Refuse a program without an input for images, or without an answer.

    Raises:
        InputError: With its inputs and outputs.
    """
    inputs, outputs = ([port.get_partial_shape() for port in ports] for ports in (network.inputs, network.outputs))
    sides = [[len(shape) if shape.rank.is_static else 0 for shape in shapes[:1]] for shapes in (inputs, outputs)]
    if sides[0] != [4] or not sides[1] or sides[1][0] < 2:
        raise InputError(
            f"{place} does not take images.",
            found=f"inputs {', '.join(map(str, inputs)) or 'none'}; outputs {', '.join(map(str, outputs)) or 'none'}",
            expected="an input [images, channels, height, width], and an output with a row for each image",
            action="export the image network alone",
        )


def _is_weight(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant" and node.get_element_type().is_real())
