"""Every export format is written by the real exporter, read by the real runtime, and compared with the model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dinomill
from dinomill.errors import InputError, MachineError
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import ConvNeXt, VisionTransformer, save_backbone, variant
from dinomill.serving import exporters
from dinomill.serving.exporters import FORMATS, Export, Format, export
from tests.models.test_convnext import network as convnext

SETTINGS = PreprocessingConfig.square(35, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def exported_folder(path: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    model = VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=2, layerscale=1.0, **changes))
    save_backbone(path, model, SETTINGS.section())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_folder(tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="module")
def exports(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Format], Export]:
    """Exports the folder once a format, each to a folder of its own."""
    path = tmp_path_factory.mktemp("exports")
    return functools.cache(lambda form: export(folder, form, path / "new" / form / "vit"))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_repeats_the_model(exports: Callable[[Format], Export], form: Format) -> None:
    if form in ("onnx", "openvino"):
        pytest.importorskip("onnxruntime" if form == "onnx" else "openvino")
    result = exports(form)
    assert result.max_difference < 1e-4
    assert result.cosine > 0.99999
    assert result.path.is_file()
    written = sorted(result.path.parent.iterdir())
    assert sum(path.stat().st_size for path in written) == result.bytes
    assert [path.suffix for path in written] == ([".bin", ".xml"] if form == "openvino" else [result.path.suffix])


@pytest.mark.parametrize("form", ["safetensors", "pt2"])
@pytest.mark.parametrize(
    "changes", [{"position": "rope"}, {"ffn": "swiglu", "registers": 4, "interpolate_offset": 0.0}]
)
def test_other_shapes_of_model(tmp_path: Path, form: Format, changes: dict[str, object]) -> None:
    result = export(exported_folder(tmp_path / "source", **changes), form, tmp_path / "vit")
    assert result.max_difference < 1e-4


def test_files_carry_their_preprocessing_and_pooling(exports: Callable[[Format], Export]) -> None:
    onnx = pytest.importorskip("onnx")
    openvino = pytest.importorskip("openvino")
    paths = {form: exports(form).path for form in FORMATS}
    extra = {"preprocessing.json": "", "pooling.txt": ""}
    torch.export.load(paths["pt2"], extra_files=extra)
    metadata = {entry.key: entry.value for entry in onnx.load(paths["onnx"]).metadata_props}
    read = openvino.Core().read_model(paths["openvino"])
    runtime = {key: read.get_rt_info(["dinomill", key]).astype(str) for key in ("preprocessing", "pooling")}
    for text in (extra["preprocessing.json"], metadata["preprocessing"], runtime["preprocessing"]):
        assert PreprocessingConfig.model_validate(json.loads(text)) == SETTINGS
    # torch hands extra files that it reads as bytes or text, by version.
    told = extra["pooling.txt"]
    assert {told if isinstance(told, str) else told.decode(), metadata["pooling"], runtime["pooling"]} == {"cls"}


def test_single_file_needs_no_keywords(tmp_path: Path) -> None:
    source = exported_folder(tmp_path / "source", position="rope")
    path = export(source, "safetensors", tmp_path / "vit").path
    assert dinomill.load(path).config == dinomill.load(source).config


def test_official_file_is_exported_too(exports: Callable[[Format], Export], tmp_path: Path) -> None:
    assert export(exports("pth").path, "safetensors", tmp_path / "again").max_difference < 1e-4


def test_what_cannot_be_is_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no export format"):
        export(folder, "tflite", tmp_path / "vit")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rotary"):
        export(exported_folder(tmp_path / "rope", position="rope"), "pth", tmp_path / "vit")
    with pytest.raises(MachineError, match="does not repeat the model"):
        export(folder, "safetensors", tmp_path / "vit", tolerance=-1.0)
    monkeypatch.setattr(exporters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match="needs openvino") as caught:
        export(folder, "openvino", tmp_path / "vit")
    assert "dinomill[openvino]" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rope"]


DINOV3 = {"position": "rope", "qkv_bias": "query_value", "norm_eps": 1e-5, "registers": 4, "rope_periods": "bfloat16"}


@pytest.mark.parametrize("form", ["safetensors", "pt2", "onnx", "openvino"])
def test_a_dinov3_becomes_a_program(tmp_path: Path, form: Format) -> None:
    if form in ("onnx", "openvino"):
        pytest.importorskip("onnxruntime" if form == "onnx" else "openvino")
    source = exported_folder(tmp_path / "source", **DINOV3, local_cls_norm=True, cls_norm=True)
    assert export(source, form, tmp_path / "vit").max_difference < 1e-4


@pytest.mark.parametrize("changes", [{"norm_eps": 1e-5}, {"qkv_bias": "query_value"}, {"cls_norm": True}])
def test_a_state_dict_that_would_be_read_as_another_model_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=r"official \.pth form cannot hold"):
        export(exported_folder(tmp_path / "source", **changes), "pth", tmp_path / "vit")


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("convnext")
    save_backbone(path, convnext(), PreprocessingConfig.square(40, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)).section())
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_a_convnext_repeats_itself_in_every_format(convolutional: Path, tmp_path: Path, form: Format) -> None:
    if form in ("onnx", "openvino"):
        pytest.importorskip("onnxruntime" if form == "onnx" else "openvino")
    result = export(convolutional, form, tmp_path / "net")
    assert result.max_difference < 1e-4
    assert result.cosine > 0.9999
    if form in ("pth", "safetensors"):
        again, original = dinomill.load(result.path), dinomill.load(convolutional)
        assert isinstance(again, ConvNeXt)
        assert again.config == original.config
    if form == "pth":  # the official code's names
        assert "downsample_layers.1.0.weight" in torch.load(result.path, weights_only=True)
