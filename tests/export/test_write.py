"""Every export format is written by the real exporter, read by the real runtime, and compared with the model."""

from __future__ import annotations

import functools
import importlib
import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dinomill
from dinomill.errors import InputError, MachineError
from dinomill.export import FORMATS, Export, Format, base, export
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import ConvNeXt, VisionTransformer, save_backbone, variant
from dinomill.models.beside import NOTE_FORMAT, note_of
from dinomill.storage.hashing import hash_file
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
    pictures = some_pictures(16)
    return functools.cache(lambda form: export(folder, form, path / "new" / form / "vit", calibration=pictures))


def some_pictures(count: int) -> list[bytes]:
    draw, found = np.random.default_rng(0), []
    for _ in range(count):
        buffer = io.BytesIO()
        coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((48, 48), Image.Resampling.BICUBIC).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


MAIN: dict[Format, list[str]] = {"openvino": ["vit.bin", "vit.xml", "vit.xml.json"], "huggingface": ["vit"]}
NEEDS = {"onnx": "onnxruntime", "onnx-int8": "onnxruntime", "openvino": "openvino", "huggingface": "transformers"}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_repeats_the_model(exports: Callable[[Format], Export], form: Format) -> None:
    pytest.importorskip(NEEDS.get(form, "torch"))
    result = exports(form)
    if form == "onnx-int8":
        assert result.cosine >= 0.99
    else:
        assert result.max_difference < 1e-4
        assert result.cosine > 0.99999
    written = sorted(result.path.parent.iterdir())
    files = [path for path in result.path.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == result.bytes
    suffix = result.path.suffix
    assert [path.name for path in written] == MAIN.get(form, [f"vit{suffix}", f"vit{suffix}.json"])


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_lies_beside_its_note(exports: Callable[[Format], Export], folder: Path, form: Format) -> None:
    pytest.importorskip(NEEDS.get(form, "torch"))
    path = exports(form).path
    file = path / "model.safetensors" if path.is_dir() else path
    note = json.loads(note_of(file).read_text(encoding="utf-8"))
    assert PreprocessingConfig.model_validate(note["preprocessing"]) == SETTINGS
    assert (note["format"], note["form"], note["pooling"], note["licence"]) == (NOTE_FORMAT, form, "cls", "unknown")
    assert note["sha256"] == hash_file(file)
    weights = hash_file(folder / "model.safetensors")
    assert note["made_from"] == {"weights_sha256": weights, "dinomill": version("dinomill")}
    assert str(folder) not in json.dumps(note)


def test_a_note_of_another_file_is_not_believed(exports: Callable[[Format], Export], tmp_path: Path) -> None:
    path = exports("pth").path
    (tmp_path / "vit.pth").write_bytes(path.read_bytes())
    note = json.loads(note_of(path).read_text()) | {"bytes": 7}
    note_of(tmp_path / "vit.pth").write_text(json.dumps(note))
    with pytest.raises(InputError, match="describes another file"):
        dinomill.load(tmp_path / "vit.pth")
    note_of(tmp_path / "vit.pth").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        dinomill.load(tmp_path / "vit.pth")


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
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None)
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
    # Angles for any size are computed by the runtime: OpenVINO's sines are its own, and good to four digits.
    assert export(source, form, tmp_path / "vit").max_difference < (2e-4 if form == "openvino" else 1e-5)


@pytest.mark.parametrize("changes", [{"norm_eps": 1e-5}, {"qkv_bias": "query_value"}, {"cls_norm": True}])
def test_a_state_dict_that_would_be_read_as_another_model_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=r"official \.pth form cannot hold"):
        export(exported_folder(tmp_path / "source", **changes), "pth", tmp_path / "vit")


def test_a_convnext_of_one_row_is_told_which_format_takes_it(tmp_path: Path) -> None:
    section = PreprocessingConfig.square(convnext().patch_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)).section()
    save_backbone(tmp_path / "source", convnext(), section)
    with pytest.raises(InputError, match=r"(?s)one row cannot be exported as pt2.*onnx or openvino"):
        export(tmp_path / "source", "pt2", tmp_path / "net")
    assert export(tmp_path / "source", "onnx", tmp_path / "net").cosine > 0.9999


@pytest.mark.parametrize("form", ["huggingface", "timm"])
def test_how_far_it_is_at_other_sizes_is_worked_out_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    pytest.importorskip(NEEDS.get(form, "torch"))
    module = importlib.import_module(f"dinomill.export.{form}")
    calls = {"deviation": 0, "with_table_for": 0}

    def counted(name: str) -> Callable[..., object]:
        real = getattr(module, name)

        def count(*arguments: object, **options: object) -> object:
            calls[name] += 1
            return real(*arguments, **options)

        return count

    for name in calls:
        monkeypatch.setattr(module, name, counted(name))
    path = export(folder, form, tmp_path / "net").path
    note = json.loads(note_of(path / "model.safetensors" if path.is_dir() else path).read_text())
    assert note["at_another_size"]["cosine"] < 1
    assert calls == {"deviation": 1, "with_table_for": 1}


@pytest.mark.parametrize("form", ["huggingface", "timm"])
def test_what_other_libraries_have_no_class_for_is_refused(convolutional: Path, tmp_path: Path, form: Format) -> None:
    with pytest.raises(InputError, match="A ConvNeXt cannot be exported"):
        export(convolutional, form, tmp_path / "net")
    odd = exported_folder(tmp_path / "source", qkv_bias="query_value")
    with pytest.raises(InputError, match=r"without biases|biases of query and value"):
        export(odd, form, tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("convnext")
    save_backbone(path, convnext(), PreprocessingConfig.square(40, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)).section())
    return path


@pytest.mark.parametrize("form", [form for form in FORMATS if form not in ("huggingface", "timm", "onnx-int8")])
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
