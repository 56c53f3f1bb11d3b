"""The programs that backends run, written once from a backbone.

<folder>/model.onnx             for ONNX Runtime
<folder>/model.xml, model.bin   for OpenVINO
<folder>/model.int8.onnx        for both: weights and activations in 8 bits
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinomill.arrays import Floats
from dinomill.errors import MachineError
from dinomill.serving.backends.choice import Backend

_BATCH = 4  # of the images that the ranges of activations are read from


def write_programs(
    backbone: Path, folder: Path, backends: Iterable[Backend], calibration: Floats, *, quietly: bool = True
) -> None:
    """Write what some backends need and is not there yet.

    Args:
        backbone: The folder of an exported backbone.
        folder: Where the programs go.
        backends: For which.
        calibration: ``[N, C, S, S]``, preprocessed images of the kind that will be served; for 8 bits alone.
        quietly: Without what the exporters say of themselves.

    Raises:
        MachineError: When a program does not repeat the model.
    """
    from dinomill.export import export

    wanted = {backend.file for backend in backends} - {None}
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "model.onnx"
    with _quiet(quietly):
        if {"model.onnx", "model.int8.onnx"} & wanted and not whole.is_file():
            export(backbone, "onnx", whole)
        if "model.xml" in wanted and not (folder / "model.xml").is_file():
            export(backbone, "openvino", folder / "model.xml")
        if "model.int8.onnx" in wanted and not (folder / "model.int8.onnx").is_file():
            quantise(whole, folder / "model.int8.onnx", calibration)


def quantise(source: Path, target: Path, images: Floats) -> None:
    """Weights and activations of every linear layer in 8 bits, by the ranges that activations take on some images.

    Products of activations with each other (attention), norms and the patches' projection stay in fp32: they are a
    tenth of the work and most of the loss.

    Args:
        source: An exported ONNX program.
        target: The file to write.
        images: ``[N, C, S, S]``, preprocessed.

    Raises:
        MachineError: When packages are missing, or there is no image.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise MachineError(
            "8 bits need onnx and onnxruntime.", found=str(error), action="pip install 'dinomill[onnx]'"
        ) from None
    if not len(images):
        raise MachineError("8 bits need images to be calibrated with.", found="none")
    network = onnx.load(source)
    weights = {tensor.name for tensor in network.graph.initializer}
    linear = [node.name for node in network.graph.node if _is_linear(node, weights)]
    quantize_static(
        network,
        target,
        _Reader(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        # The first one is the patches' projection, which sees pixels.
        nodes_to_quantize=linear[1:],
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    made = onnx.load(target)
    if not made.metadata_props:  # the description
        made.metadata_props.extend(network.metadata_props)
        onnx.save(made, target)


def _is_linear(node: Any, weights: set[str]) -> bool:
    return node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 and node.input[1] in weights


class _Reader:
    """What onnxruntime.quantization takes its images from."""

    def __init__(self, images: Floats) -> None:
        self._batches = iter([images[start : start + _BATCH] for start in range(0, len(images), _BATCH)])

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next batch."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}

    def __iter__(self) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        return iter(self.get_next, None)


def _quiet(quietly: bool) -> Any:
    from contextlib import ExitStack, nullcontext

    if not quietly:
        return nullcontext()
    stack = ExitStack()
    import logging
    import warnings

    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for name in ("torch.onnx._internal.exporter._registration", "root"):
        noisy = logging.getLogger(name)
        stack.callback(noisy.setLevel, noisy.level)
        noisy.setLevel(logging.ERROR)
    return stack


@torch.no_grad()
def embed_all(features: Any, images: Floats, batch_size: int = 8) -> Floats:
    """Embeddings of preprocessed images ``[N, C, S, S]`` as a backend gives them, ``[N, E]``."""
    found = []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size])
        found.append(features(batch).pooled(features.pooling).float().numpy())
    return np.concatenate(found)
