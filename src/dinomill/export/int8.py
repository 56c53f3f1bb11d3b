"""Weights and activations of every linear layer in 8 bits, by the ranges that activations take on some images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dinomill.arrays import Floats
from dinomill.errors import InputError, MachineError
from dinomill.export.base import Run, Subject, require
from dinomill.export.parity import Compared
from dinomill.export.program import Program
from dinomill.export.runtimes import Onnx
from dinomill.models.backbones import Backbone

_BATCH = 4  # of the images that the ranges of activations are read from


class OnnxInt8(Onnx):
    """ONNX in 8 bits, calibrated on images of the kind that will be seen; ONNX Runtime and OpenVINO run it.

    Every other image says the ranges, and all of them whether they were right: the embedding of the worst has to have
    this cosine with the model's.
    """

    least_cosine = 0.99
    needs_images = True

    def require_fit(self, model: Backbone) -> None:
        """Refuse where its packages are missing."""
        super().require_fit(model)
        require("onnxruntime", extra="onnx")

    def write(self, subject: Subject, path: Path) -> None:
        """Write the program in fp32, and from it this one.

        Raises:
            InputError: Without images.
        """
        images = _images(subject)
        whole = path.with_name(f"{path.stem}.float32.onnx")
        try:
            super().write(subject, whole)
            quantise(whole, path, images[::2])
        finally:
            for file in (whole, whole.with_name(f"{whole.name}.data")):
                file.unlink(missing_ok=True)

    @torch.no_grad()
    def compare(self, subject: Subject, run: Run) -> Compared:
        """Embeddings of the images, which are all that this form promises."""
        program, images = Program(subject.model).eval(), _images(subject)
        batches = [torch.from_numpy(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        whole = torch.cat([program(batch)[2] for batch in batches])
        found = torch.cat([run(batch)[2] for batch in batches])
        if not bool(found.isfinite().all()):
            return Compared(float("inf"), 0.0)
        return Compared(float((whole - found).abs().max()), float(_cosines(whole, found).min()))

    def says(self, subject: Subject) -> dict[str, Any]:
        """On how many images it was calibrated."""
        count = len(_images(subject))
        return {"calibration": {"images": (count + 1) // 2, "compared_on": count, "least_cosine": self.least_cosine}}


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(one, other, dim=-1)


def _images(subject: Subject) -> Floats:
    if subject.calibration is None or not len(subject.calibration):
        raise InputError(
            "8 bits have to be calibrated on images of the kind that will be seen.",
            found="none",
            expected="some 64 to 128 images",
            action="give them: `dinomill export onnx-int8 FILE --calibration FOLDER`, `export(…, calibration=…)`",
        )
    return subject.calibration


def quantise(source: Path, target: Path, images: Floats) -> None:
    """Weights and activations of every linear layer in 8 bits.

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
    with _unprepared():
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


@contextmanager
def _unprepared() -> Iterator[None]:
    """Without the advice to prepare the network, which is for others than ours.

    It goes to the root logger, by functions that give one without handlers one of its own.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(_no_advice)
    try:
        yield
    finally:
        root.removeFilter(_no_advice)
        root.removeHandler(silent)


def _no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


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
