"""The forms for other runtimes: ONNX and OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dinomill.export.base import Form, Outputs, Run, Subject, require
from dinomill.export.program import AXES, INPUT, OUTPUTS, trace
from dinomill.models.backbones import Backbone

_ONNX_LIMIT = 1_900_000_000  # bytes of weights; one protobuf file cannot hold more than 2 GB


class Onnx(Form):
    """ONNX, with the description as metadata; weights over 2 GB lie in ``<name>.onnx.data``."""

    suffix = ".onnx"
    reader = "ONNX Runtime"

    def require_fit(self, model: Backbone) -> None:
        """Refuse where its packages are missing."""
        del model
        require("onnx", "onnxscript", "onnxruntime", extra="onnx")

    def write(self, subject: Subject, path: Path) -> None:
        """Trace, convert and write it."""
        model = subject.model
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        exported = torch.onnx.export(
            trace(model), dynamo=True, verbose=False, input_names=[INPUT], output_names=list(OUTPUTS)
        )
        assert exported is not None
        graph = exported.model.graph
        for value in (*graph.inputs, *graph.outputs):
            _name_axes(value)
        exported.model.metadata_props.update(subject.told)
        exported.save(path, external_data=size > _ONNX_LIMIT)

    def read(self, path: Path, _: Subject) -> Run:
        """Run it with ONNX Runtime."""
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: _tensors(session.run(list(OUTPUTS), {INPUT: images.numpy()}))


def _name_axes(value: Any) -> None:
    """Axes by what they are: the tracer calls them s34 and 14*s30."""
    import onnx_ir

    names = AXES[value.name]
    value.shape = onnx_ir.Shape([old if name is None else name for old, name in zip(value.shape, names, strict=True)])


class OpenVino(Form):
    """OpenVINO, ``.xml`` and ``.bin``; the description as runtime information."""

    suffix = ".xml"
    reader = "OpenVINO"

    def require_fit(self, model: Backbone) -> None:
        """Refuse where it is not installed."""
        del model
        require("openvino", extra="openvino")

    def write(self, subject: Subject, path: Path) -> None:
        """Trace, convert and write it."""
        import openvino

        model = subject.model
        converted = openvino.convert_model(trace(model))
        converted.reshape([-1, model.config.in_channels, -1, -1])
        for port, name in zip((*converted.inputs, *converted.outputs), (INPUT, *OUTPUTS), strict=True):
            port.get_tensor().set_names({name})
        layout = openvino.Layout("NCHW")
        converted.get_parameters()[0].set_layout(layout)
        for key, value in subject.told.items():
            converted.set_rt_info(value, ["dinomill", key])
        openvino.save_model(converted, path, compress_to_fp16=False)

    def read(self, path: Path, _: Subject) -> Run:
        """Run it with OpenVINO, in fp32: a CPU with bf16 would round, which says nothing of the export."""
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda images: _tensors(list(compiled(images.numpy()).values()))


def _tensors(arrays: Sequence[Any]) -> Outputs:
    return tuple(torch.from_numpy(array) for array in arrays)
