"""An ONNX file as features: one of our exports, or any with one image input."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinomill.errors import InputError
from dinomill.features.base import Description, Features, Tokens
from dinomill.features.programs import describe_program, tokens
from dinomill.images.preprocess import PreprocessingConfig


class OnnxFeatures(Features):
    """A program that ONNX Runtime runs, on one thread of the CPU.

    Args:
        description: What it is.
        session: Of ONNX Runtime.
    """

    def __init__(self, description: Description, session: Any) -> None:
        super().__init__(description)
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = [output.name for output in session.get_outputs()]

    @property
    def grid(self) -> int:
        """Places a side; 1 for a program that gives one vector an image."""
        settings = self.preprocessing
        patches = self(_zeros(settings)).patches
        return 1 if patches is None else math.isqrt(patches.shape[1])

    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of ``[B, C, S, S]``."""
        images = np.ascontiguousarray(batch.detach().cpu().numpy())
        return tokens(self._outputs, self._session.run(None, {self._input: images}))


def open_onnx(
    address: str,
    place: Path,
    preprocessing: PreprocessingConfig | None,
    image_size: int | None = None,
    *,
    threads: int = 1,
    fixed: bool = False,
) -> OnnxFeatures:
    """Start a session; a description needs one too.

    Args:
        address: As it was asked for.
        place: The file.
        preprocessing: Instead of its own.
        image_size: Pixels, instead of its own.
        threads: Of the CPU.
        fixed: Images come in the size of the preprocessing alone, so that what follows from it is worked out once.

    Raises:
        InputError: When ONNX Runtime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            f"onnxruntime is not installed, and {address} needs it.", action="pip install 'dinomill[onnx]'"
        ) from None
    session = _session(onnxruntime, place, threads, plain=fixed)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise InputError(
            f"{place} does not take images.",
            found=", ".join(f"{put.name} {put.shape}" for put in inputs),
            expected="one input [batch, channels, height, width]",
            action="export the image network alone",
        )
    shape = session.get_outputs()[0].shape
    width = shape[1] if len(shape) == 4 else shape[-1]
    data = place.with_name(f"{place.name}.data")
    description = describe_program(
        address,
        place,
        family="ONNX",
        told=session.get_modelmeta().custom_metadata_map,
        input_shape=inputs[0].shape,
        dim=width if isinstance(width, int) else 0,
        parameters=_parameters(place),
        paths=(place, data) if data.is_file() else (place,),
        preprocessing=preprocessing,
        image_size=image_size,
    )
    if fixed:
        session = _session(onnxruntime, place, threads, side=description.preprocessing.image_size)
    found = OnnxFeatures(description, session)
    if not description.dim:  # not said by the file: one image tells
        found.description = replace(description, dim=found(_zeros(description.preprocessing)).cls.shape[1])
    return found


def _session(runtime: Any, place: Path, threads: int, *, side: int | None = None, plain: bool = False) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait take the processor from other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if plain:  # only to be looked at: what it takes and says
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if side is not None:
        for axis in ("height", "width"):
            options.add_free_dimension_override_by_name(axis, side)
    try:
        return runtime.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many classes of its own
        raise InputError(
            f"{place} is no ONNX file that can be run.",
            found=str(error).splitlines()[0],
            action="copy or export it again, with its .onnx.data file where it has one",
        ) from None


def _parameters(place: Path) -> int:
    if importlib.util.find_spec("onnx") is None:
        return 0
    import onnx

    network = onnx.load(place, load_external_data=False)
    return sum(math.prod(tensor.dims) for tensor in network.graph.initializer)


def _zeros(settings: PreprocessingConfig) -> Tensor:
    return torch.zeros(1, settings.channels, settings.image_size, settings.image_size)
