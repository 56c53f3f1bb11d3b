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
from dinomill.export.timm import installed_timm
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.models.vision_transformer import VisionTransformer as Network
from dinomill.serving.predictor import Predictor

SETTINGS = PreprocessingConfig.square(42, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
NEEDS = {"onnx": "onnxruntime", "onnx-int8": "onnxruntime", "openvino": "openvino", "huggingface": "transformers"}
DINOV3 = {"position": "rope", "qkv_bias": "query_value", "norm_eps": 1e-5, "registers": 4}
MODELS: dict[str, dict[str, Any]] = {
    "dinov2": {"pooling": "cls+mean_patch"},
    "registers": {"registers": 4, "interpolate_offset": 0.0, "interpolate_antialias": True, "pooling": "mean_patch"},
    "swiglu": {"ffn": "swiglu", "interpolate_offset": 0.0},
    "dinov3": DINOV3,
    "dinov3_gated": DINOV3 | {"ffn": "swiglu", "pooling": "cls+mean_patch"},
}
CANNOT: dict[Format, set[str]] = {"pth": {"dinov3", "dinov3_gated"}}
# In 8 bits one network each of both families: the linear layers of all are alike, and each takes seconds.
LEFT_OUT: dict[Format, set[str]] = {"onnx-int8": {"registers", "swiglu", "dinov3"}}
LEAST: dict[Format, float] = {"onnx-int8": 0.99}  # cosine, which the form promises for embeddings


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


def _seconds(form: Format, model: str) -> Any:
    """Of the formats that take a compiler seconds, one model of each family; the others are run by `make test-all`."""
    compiled = form in ("onnx", "onnx-int8", "openvino", "pt2") and model not in ("dinov2", "dinov3")
    return pytest.param(form, model, marks=pytest.mark.slow if compiled else ())


@pytest.mark.parametrize(("form", "model"), [_seconds(form, model) for form in FORMATS for model in MODELS])
def test_an_export_is_the_model(
    sources: Callable[[str], Path], photographs: list[bytes], tmp_path: Path, form: Format, model: str
) -> None:
    if model in CANNOT.get(form, ()):
        pytest.skip("this form refuses it, which test_write sees")
    if model in LEFT_OUT.get(form, ()):
        pytest.skip("another network stands for it")
    pytest.importorskip(NEEDS.get(form, "torch"))
    done = export(sources(model), form, tmp_path / "net", calibration=[*photographs, *photographs])
    original, exported = features.open(sources(model)), features.open(done.path)
    told = exported.description
    assert (told.licence, told.origin, told.pooling) == ("CC-BY-4.0", "trained from random weights", original.pooling)
    assert exported.preprocessing == SETTINGS
    least = LEAST.get(form, 0.9999)
    assert cosine(Predictor(exported)(photographs), Predictor(original)(photographs)) >= least
    with torch.inference_mode():
        for side in (42, 56, 35) if form not in ("huggingface", "timm") or resized_alike(model, form) else (42,):
            batch = pixels(photographs, side)
            expected, actual = original(batch), exported(batch)
            assert expected.patches is not None
            assert actual.patches is not None
            assert cosine(actual.cls, expected.cls) >= least, side
            assert cosine(actual.patches, expected.patches) >= least, side


def resized_alike(model: str, form: Format) -> bool:
    """Whether the other library resizes positions as this network does."""
    told = MODELS[model]
    antialias = form == "timm" or bool(told.get("registers"))
    table = (told.get("interpolate_offset", 0.1), told.get("interpolate_antialias", False))
    return told.get("position") == "rope" or table == (0.0, antialias)


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
        "img_size": 56,
        "dynamic_img_size": True,
        "global_pool": "avg",
        "fc_norm": False,
        "patch_size": 7,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 1,
        "mlp_ratio": 4.0,
    }
    assert isinstance(features.open(path).model, Network)  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", MODELS)
def test_timm_opens_the_file_and_sees_the_same(
    sources: Callable[[str], Path], photographs: list[bytes], tmp_path: Path, model: str
) -> None:
    timm = installed_timm() or pytest.skip("no timm that can be imported: it needs a torchvision of torch's own build")
    path = export(sources(model), "timm", tmp_path / "net").path
    told = json.loads(path.with_name("net.safetensors.json").read_text())["timm"]
    network = timm.create_model(told["architecture"], checkpoint_path=str(path), **told["arguments"]).eval()
    original = features.open(sources(model))
    for side in (42, 56, 35) if resized_alike(model, "timm") else (42,):
        batch = pixels(photographs, side)
        with torch.inference_mode():
            tokens, embedding, expected = network.forward_features(batch), network(batch), original(batch)
        assert expected.patches is not None
        torch.testing.assert_close(tokens[:, 0], expected.cls, atol=1e-5, rtol=0)
        torch.testing.assert_close(tokens[:, network.num_prefix_tokens :], expected.patches, atol=1e-5, rtol=0)
        wanted = expected.mean_patch if original.pooling == "mean_patch" else expected.cls
        torch.testing.assert_close(embedding, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", ["huggingface", "timm"])
def test_what_other_sizes_cost_is_in_the_note(sources: Callable[[str], Path], tmp_path: Path, form: Format) -> None:
    def told(name: str) -> tuple[dict[str, Any], Path]:
        path = export(sources(name), form, tmp_path / name).path
        file = path / "model.safetensors" if path.is_dir() else path
        return json.loads(file.with_name(f"{file.name}.json").read_text()), path

    note, path = told("dinov2")
    off = note["at_another_size"]
    assert off["pixels"] == 56
    assert 0.99 < off["cosine"] <= 1 + 1e-6
    if form == "huggingface":
        assert f"a cosine of {off['cosine']:.4f}" in (path / "README.md").read_text()
    assert "at_another_size" not in told("registers")[0]
