"""What 8 bits are made from is gone when they are made, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dinomill.errors import MachineError
from dinomill.export import int8
from dinomill.export.base import Subject
from dinomill.export.int8 import OnnxInt8
from dinomill.export.runtimes import Onnx
from dinomill.models import VisionTransformer, variant


@pytest.mark.parametrize("name", ["net.onnx", "whole.onnx", "net.float32.onnx"])
def test_the_program_in_between_is_predictable_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[str] = []

    def write(_form: Onnx, _subject: Subject, path: Path) -> None:
        path.write_text("float32")
        path.with_name(f"{path.name}.data").write_text("weights")

    def quantise(source: Path, target: Path, _images: object) -> None:
        seen.append(source.name)
        if len(seen) > 1:
            raise MachineError("It failed.")
        target.write_text(f"8 bits of {source.read_text()}")

    monkeypatch.setattr(Onnx, "write", write)
    monkeypatch.setattr(int8, "quantise", quantise)
    torch.manual_seed(0)
    model = VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=1))
    subject = Subject(model, 28, {}, np.zeros((2, 3, 28, 28), np.float32))
    OnnxInt8().write(subject, tmp_path / name)
    assert seen == [f"{Path(name).stem}.float32.onnx"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "8 bits of float32"}
    with pytest.raises(MachineError, match="failed"):
        OnnxInt8().write(subject, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
