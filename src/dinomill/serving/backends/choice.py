"""The names of the backends. Nothing is imported here that takes time: a configuration names them, too."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Literal

from pydantic import Field, model_validator

from dinomill.config import Config

Runtime = Literal["eager", "compiled", "onnxruntime", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]
_IMPOSSIBLE = {("eager", "int8"), ("compiled", "int8"), ("onnxruntime", "bfloat16")}


class Backend(Config):
    """A runtime and the precision that it computes products in."""

    runtime: Runtime = Field(default="eager", description="eager, compiled (both PyTorch), onnxruntime or openvino")
    precision: Precision = Field(default="float32", description="float32, bfloat16, or int8 (the last two runtimes)")

    @model_validator(mode="after")
    def _exists(self) -> Backend:
        if (self.runtime, self.precision) in _IMPOSSIBLE:
            raise ValueError(f"{self.runtime} does not compute in {self.precision} here")
        return self

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"

    @property
    def file(self) -> str | None:
        """The program's main file in an archive; None for PyTorch, which computes from the weights."""
        if self.runtime in ("eager", "compiled"):
            return None
        if self.precision == "int8":
            return "model.int8.onnx"
        return "model.onnx" if self.runtime == "onnxruntime" else "model.xml"

    @property
    def files(self) -> tuple[str, ...]:
        """All of the program's files."""
        main = self.file
        return () if main is None else (main, "model.bin") if main.endswith(".xml") else (main,)


EAGER = Backend()


def every_backend() -> list[Backend]:
    """All that there are, the plainest first."""
    runtimes: tuple[Runtime, ...] = ("eager", "compiled", "onnxruntime", "openvino")
    precisions: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
    return [
        Backend(runtime=runtime, precision=precision)
        for runtime in runtimes
        for precision in precisions
        if (runtime, precision) not in _IMPOSSIBLE
    ]


def why_not(backend: Backend) -> str | None:
    """Why a backend cannot be used on this machine, or None."""
    needs = {"onnxruntime": ["onnxruntime"], "openvino": ["openvino"]}.get(backend.runtime, [])
    if backend.precision == "int8":
        needs = [*needs, "onnx", "onnxruntime"]
    missing = [name for name in dict.fromkeys(needs) if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    if backend.runtime == "compiled" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "no C++ compiler"
    if backend.precision == "bfloat16":
        import torch

        from dinomill.models.hardware import has_fast_bf16

        if not has_fast_bf16(torch.device("cpu")):
            return "this CPU has no products in bfloat16"
    return None
