from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dinomill
from dinomill.commands.export import export_model
from dinomill.errors import InputError, StorageError


def test_a_model_becomes_one_file_that_loads(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "vit.safetensors"
    export_model(str(backbone), "safetensors", output)
    assert "cosine 1.000000" in capsys.readouterr().out
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(dinomill.load(output)(images), dinomill.load(backbone)(images))


def test_an_unknown_format_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="onx") as caught:
        export_model(str(tmp_path / "nowhere"), "onx", tmp_path / "vit")
    assert "openvino" in str(caught.value)


def test_a_place_that_cannot_be_written_is_found_before_the_work(backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"Cannot write .*vit\.onnx") as caught:
        export_model(str(backbone), "onnx", tmp_path / "file" / "vit.onnx")
    assert caught.value.action is not None


def test_torch_says_nothing_of_packages_that_no_backbone_needs(
    backbone: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    export_model(str(backbone), "onnx", tmp_path / "vit.onnx")
    assert "torchvision" not in "".join(capfd.readouterr())
    assert not [one for one in recwarn if issubclass(one.category, FutureWarning)]
