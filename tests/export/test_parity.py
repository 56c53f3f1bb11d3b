"""One parity test over all exports: real photographs, as users put them in, against the PyTorch module."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinomill import features
from dinomill.export import FORMATS, Format, export
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.models.vision_transformer import VisionTransformer as Network
from dinomill.serving.predictor import Predictor

SETTINGS = PreprocessingConfig.square(42, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
NEEDS = {"onnx": "onnxruntime", "openvino": "openvino", "huggingface": "transformers"}
DINOV3 = {"position": "rope", "qkv_bias": "query_value", "norm_eps": 1e-5, "registers": 4}
MODELS: dict[str, dict[str, Any]] = {
    "dinov2": {"pooling": "cls+mean_patch"},
    "registers": {"registers": 4, "interpolate_offset": 0.0, "interpolate_antialias": True, "pooling": "mean_patch"},
    "swiglu": {"ffn": "swiglu", "interpolate_offset": 0.0},
    "dinov3": DINOV3,
    "dinov3_gated": DINOV3 | {"ffn": "swiglu", "pooling": "cls+mean_patch"},
}
CANNOT: dict[Format, set[str]] = {"pth": {"dinov3", "dinov3_gated"}}


def source(folder: Path, name: str) -> Path:
    torch.manual_seed(1)
    model = VisionTransformer(variant("nano", patch_size=7, image_size=56, depth=2, layerscale=1.0, **MODELS[name]))
    for parameter in model.parameters():  # as after training: biases and positions that are not nearly zero
        torch.nn.init.normal_(parameter, std=0.1)
    save_backbone(folder, model, SETTINGS.section() | {"licence": "CC-BY-4.0", "origin": "trained from random weights"})
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return functools.cache(lambda name: source(tmp_path_factory.mktemp(name), name))


def cosine(actual: Any, expected: Any) -> float:
    left, right = (np.asarray(rows, np.float64).reshape(-1, rows.shape[-1]) for rows in (actual, expected))
    return float(((left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)).min())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", FORMATS)
def test_an_export_is_the_model(
    sources: Callable[[str], Path], photographs: list[bytes], tmp_path: Path, form: Format, model: str
) -> None:
    if model in CANNOT.get(form, ()):
        pytest.skip("this form refuses it, which test_write sees")
    pytest.importorskip(NEEDS.get(form, "torch"))
    done = export(sources(model), form, tmp_path / "net")
    original, exported = features.open(sources(model)), features.open(done.path)
    told = exported.description
    assert (told.licence, told.origin, told.pooling) == ("CC-BY-4.0", "trained from random weights", original.pooling)
    assert exported.preprocessing == SETTINGS
    assert cosine(Predictor(exported)(photographs), Predictor(original)(photographs)) >= 0.9999
    with torch.inference_mode():
        for side in (42, 56, 35) if form not in ("huggingface", "timm") else (42,):
            batch = pixels(photographs, side)
            expected, actual = original(batch), exported(batch)
            assert expected.patches is not None
            assert actual.patches is not None
            assert cosine(actual.cls, expected.cls) >= 0.9999, side
            assert cosine(actual.patches, expected.patches) >= 0.9999, side


def pixels(photographs: list[bytes], side: int) -> Tensor:
    """Landscapes but of 42 pixels, which are squares."""
    settings = SETTINGS.model_copy(update={"image_size": side, "resize": side})
    batch = torch.from_numpy(np.stack([preprocess_bytes(image, settings) for image in photographs]))
    return batch if side == 42 else batch[:, :, :-14]


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_axes_have_names_and_the_embedding_is_in_the_program(
    sources: Callable[[str], Path], photographs: list[bytes], tmp_path: Path, form: Format
) -> None:
    runtime = pytest.importorskip(NEEDS[form])
    path = export(sources("dinov2"), form, tmp_path / "net").path
    batch = pixels(photographs, 42)
    if form == "onnx":
        session = runtime.InferenceSession(path)
        shapes = {put.name: put.shape for put in (*session.get_inputs(), *session.get_outputs())}
        assert shapes == {
            "images": ["batch", 3, "height", "width"],
            "cls_token": ["batch", 64],
            "patch_tokens": ["batch", "patches", 64],
            "embedding": ["batch", 128],
        }
        (embedding,) = session.run(["embedding"], {"images": batch.numpy()})
    else:
        compiled = runtime.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        assert [port.get_any_name() for port in compiled.outputs] == ["cls_token", "patch_tokens", "embedding"]
        embedding = compiled(batch.numpy())["embedding"]
    with torch.inference_mode():
        expected = Predictor(sources("dinov2")).embed_batch(batch)
    assert cosine(embedding, expected) >= 0.9999


@pytest.mark.parametrize("model", ["dinov2", "registers", "swiglu", "dinov3", "dinov3_gated"])
def test_transformers_opens_the_folder_and_sees_the_same(
    sources: Callable[[str], Path], photographs: list[bytes], tmp_path: Path, model: str
) -> None:
    transformers = pytest.importorskip("transformers")
    path = export(sources(model), "huggingface", tmp_path / "net").path
    network = transformers.AutoModel.from_pretrained(path, local_files_only=True).eval()
    batch = pixels(photographs, 42)
    original = features.open(sources(model))
    with torch.inference_mode():
        found, expected = network(pixel_values=batch), original(batch)
    assert type(network).__name__ == json.loads((path / "config.json").read_text())["architectures"][0]
    assert cosine(found.pooler_output, expected.cls) >= 0.9999
    assert expected.patches is not None
    assert cosine(found.last_hidden_state[:, -36:], expected.patches) >= 0.9999
    processor = json.loads((path / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["crop_size"]) == ({"shortest_edge": 42}, {"height": 42, "width": 42})
    assert (processor["image_mean"], processor["image_std"]) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    assert (path / "README.md").read_text().startswith('---\nlicense: "CC-BY-4.0"\n')


def test_timm_names_say_their_architecture(sources: Callable[[str], Path], tmp_path: Path) -> None:
    path = export(sources("registers"), "timm", tmp_path / "net").path
    told = json.loads(path.with_name("net.safetensors.json").read_text())["timm"]
    assert told["architecture"] == "vit_small_patch14_reg4_dinov2"
    assert told["arguments"] == {
        "num_classes": 0,
        "img_size": 42,
        "patch_size": 7,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 1,
        "mlp_ratio": 4.0,
    }
    assert isinstance(features.open(path).model, Network)  # type: ignore[attr-defined]
