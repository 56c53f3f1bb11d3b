from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch

import dinomill
from dinomill import features
from dinomill.commands.export import export_model
from dinomill.errors import InputError, StorageError
from dinomill.export import Format, export
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.storage.hashing import hash_file
from tests.export.test_parity import source as network


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


@pytest.mark.parametrize(
    ("form", "source", "target"),
    [
        ("pth", "own.pth", "own.pth"),
        ("pth", "own.pth", "link.pth"),
        ("openvino", "own.bin", "own.xml"),
        ("safetensors", "vit", "vit/model.safetensors"),
        ("timm", "vit", "vit/model.safetensors"),
        ("huggingface", "vit", "vit"),
        ("huggingface", "vit", "."),
        ("huggingface", "vit", "vit/again"),
        ("huggingface", "own.pth", "."),
    ],
)
def test_the_weights_are_not_written_over(tmp_path: Path, form: str, source: str, target: str) -> None:
    model = VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=1))
    save_backbone(tmp_path / "vit", model, PreprocessingConfig.square(28, (0.5,) * 3, (0.2,) * 3).section())
    for name in ("own.pth", "own.bin"):
        torch.save(model.state_dict(), tmp_path / name)
    (tmp_path / "link.pth").symlink_to("own.pth")
    before = {path: hash_file(path) for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="would be written over the weights"):
        export(tmp_path / source, cast("Format", form), tmp_path / target)
    assert {path: hash_file(path) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_export_may_lie_beside_its_weights(tmp_path: Path) -> None:
    model = VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=1))
    torch.save(model.state_dict(), tmp_path / "own.pth")
    for _ in range(2):  # the second takes the place of the first
        export(tmp_path / "own.pth", "safetensors", tmp_path / "own")
    assert (tmp_path / "own.safetensors").is_file()


def test_images_for_a_form_that_is_not_calibrated_are_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="onnx is not calibrated on images"):
        export_model(str(backbone), "onnx", tmp_path / "vit.onnx", calibration=tmp_path)


def test_8_bits_are_calibrated_on_a_folder_or_refused(
    photographs: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    backbone = network(tmp_path / "network", "dinov2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="have to be calibrated") as caught:
        export_model(str(backbone), "onnx-int8", tmp_path / "vit.onnx")
    assert "--calibration" in str(caught.value)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"no picture")
    for number, data in enumerate(photographs):
        (folder / f"{number}.png").write_bytes(data)
    with pytest.raises(InputError, match="so few images") as caught:
        export_model(str(backbone), "onnx-int8", tmp_path / "vit.onnx", calibration=folder)
    assert "6 that can be used" in str(caught.value)
    for number, data in enumerate(photographs):
        (folder / f"again {number}.png").write_bytes(data)
    with pytest.raises(InputError, match=r"There is no .*imagse to calibrate") as caught:
        export_model(str(backbone), "onnx-int8", tmp_path / "vit.onnx", calibration=tmp_path / "imagse")
    assert "globals" not in str(caught.value)
    capfd.readouterr()
    caplog.clear()
    export_model(str(backbone), "onnx-int8", tmp_path / "vit.onnx", calibration=folder)
    assert "pre-processing" not in caplog.text + "".join(capfd.readouterr())
    images = torch.rand(2, 3, 42, 42)
    found = features.open(tmp_path / "vit.onnx")(images).cls
    expected = features.open(backbone)(images).cls
    assert bool((torch.cosine_similarity(found, expected) > 0.98).all())
    note = json.loads((tmp_path / "vit.onnx.json").read_text())
    assert note["calibration"] == {"images": 6, "compared_on": 12, "least_cosine": 0.99}
