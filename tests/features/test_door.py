"""One door: whatever the address, the same network, its preprocessing, and who it is; resolved once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dinomill import features, tracking
from dinomill.errors import InputError
from dinomill.export import export, write
from dinomill.features import Features
from dinomill.features.programs import describe_program
from dinomill.images.decode import decode_image
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.serving.predictor import Predictor

SETTINGS = PreprocessingConfig.square(35, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def network(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        variant("nano", **{"patch_size": 7, "image_size": 28, "depth": 2, "layerscale": 1.0} | changes)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export")
    save_backbone(path, network(pooling="cls+mean_patch"), SETTINGS.section() | {"licence": "MIT"})
    return path


def test_an_export_says_all_of_itself(folder: Path) -> None:
    described, opened = features.describe(folder), features.open(folder)
    assert described == opened.description
    assert (described.family, described.licence, described.pooling, described.embed_dim) == (
        *("dinomill", "MIT", "cls+mean_patch"),
        128,
    )
    assert described.preprocessing == SETTINGS
    assert described.trained_so
    assert described.parameters == sum(p.numel() for p in network().parameters())
    assert (opened.grid, opened.dim) == (5, 64)
    tokens = opened(torch.randn(2, 3, 35, 35))
    assert tokens.patches is not None
    assert (tokens.cls.shape, tokens.patches.shape) == ((2, 64), (2, 25, 64))
    torch.testing.assert_close(tokens.mean_patch, tokens.patches.mean(dim=1))


def test_describing_reads_no_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr("dinomill.models.loading.from_tensors", built)
    monkeypatch.setattr("dinomill.models.files.load_file", built)
    assert features.describe(folder).model == network(pooling="cls+mean_patch").config


@pytest.mark.parametrize("form", ["safetensors", "onnx", "openvino"])
def test_every_export_that_says_its_preprocessing_is_the_same_network(
    folder: Path, tmp_path: Path, form: Any, photographs: list[bytes]
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    if form == "openvino":
        pytest.importorskip("openvino")
    path = export(folder, form, tmp_path / "vit").path
    described = features.describe(path)
    assert (described.preprocessing, described.pooling, described.trained_so) == (SETTINGS, "cls+mean_patch", True)
    assert (described.dim, features.open(path).grid, described.licence) == (64, 5, "MIT")
    assert described.parameters > 100_000
    expected, actual = Predictor(folder)(photographs), Predictor(path)(photographs)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert described.identity != features.describe(folder).identity or form == "safetensors"
    with pytest.raises(InputError, match="no multiple"):
        features.open(path, image_size=40)


def test_the_identity_is_of_weights_and_preprocessing(folder: Path, tmp_path: Path) -> None:
    first = features.describe(folder).identity
    assert features.describe(folder).identity == first
    save_backbone(tmp_path / "same", network(pooling="cls+mean_patch"), SETTINGS.section() | {"note": "moved"})
    assert features.describe(tmp_path / "same").identity == first
    other = PreprocessingConfig.square(28, SETTINGS.mean, SETTINGS.std)
    save_backbone(tmp_path / "smaller", network(pooling="cls+mean_patch"), other.section())
    save_backbone(tmp_path / "pooled", network(), SETTINGS.section())
    changed = network(pooling="cls+mean_patch")
    with torch.no_grad():
        changed.norm.bias.add_(1)
    save_backbone(tmp_path / "changed", changed, SETTINGS.section())
    others = {features.describe(tmp_path / name).identity for name in ("smaller", "pooled", "changed")}
    assert len(others | {first}) == 4
    assert features.describe(folder, image_size=28).identity == features.describe(tmp_path / "smaller").identity


def test_a_file_that_says_nothing_is_put_to_use_as_its_family_is(tmp_path: Path) -> None:
    model = VisionTransformer(variant("nano", image_size=518, depth=1))
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    described = features.describe(tmp_path / "vit.pth")
    assert described.preprocessing == PreprocessingConfig()
    assert not described.trained_so
    assert described.licence is None
    torch.save(network(in_channels=1).state_dict(), tmp_path / "grey.pth")
    grey = features.describe(tmp_path / "grey.pth").preprocessing
    assert (grey.image_size, grey.channels) == (28, 1)


def test_a_size_of_whole_patches_can_be_asked_for(tmp_path: Path, photographs: list[bytes]) -> None:
    torch.save(network(image_size=56).state_dict(), tmp_path / "vit.pth")
    opened = features.open(tmp_path / "vit.pth", image_size=112)
    assert (opened.preprocessing.image_size, opened.preprocessing.resize, opened.grid) == (112, 128, 16)
    assert Predictor(opened)(photographs[:2]).shape == (2, 64)
    with pytest.raises(InputError, match="patches of 7 pixels, and 100 is no multiple") as caught:
        features.describe(tmp_path / "vit.pth", image_size=100)
    assert "98 or 105" in str(caught.value)


def test_a_processor_beside_the_weights_says_the_preprocessing(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 56}
    transformers.Dinov2Model(transformers.Dinov2Config(**shape)).save_pretrained(tmp_path)
    told = {"do_center_crop": True, "crop_size": {"height": 42, "width": 42}, "size": {"shortest_edge": 50}}
    told |= {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\ntags: []\n---\n# A model\n")
    described = features.describe(tmp_path)
    expected = PreprocessingConfig(image_size=42, resize=50, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert (described.preprocessing, described.licence) == (expected, "apache-2.0")
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        features.describe(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "licence", "mean"),
    [
        ("dinov3_vits16_pretrain_lvd1689m-08c60483.pth", {}, "DINOv3 License", 0.485),
        ("dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth", {"local_cls_norm": True}, None, 0.43),
        ("mine.pth", {}, None, 0.485),
    ],
)
def test_released_weights_are_known_by_name_and_shape(
    tmp_path: Path, name: str, changes: dict[str, Any], licence: str | None, mean: float
) -> None:
    shape = {"patch_size": 16, "image_size": 224, "position": "rope", "registers": 4, "qkv_bias": "query_value"}
    with torch.device("meta"):
        model = VisionTransformer(variant("small", **shape, **changes))
    tensors = {key.replace("register_", "storage_"): torch.zeros(t.shape) for key, t in model.state_dict().items()}
    torch.save(tensors | {"blocks.0.attn.qkv.bias_mask": torch.ones(1152)}, tmp_path / name)
    described = features.describe(tmp_path / name)
    assert described.family == "DINOv3"
    # A file that bears the name of a ViT-L and holds a ViT-S is not what its name says.
    assert described.licence == licence
    assert (described.preprocessing.mean[0], described.preprocessing.image_size) == (mean, 224)


def test_the_network_from_a_wheel(photographs: list[bytes]) -> None:
    opened: Features = features.open("efficientnet-lite0")
    described = opened.description
    assert (described.dim, described.licence, described.model, opened.grid) == (1280, "Apache-2.0", None, 7)
    tokens = opened(torch.randn(1, 3, 224, 224))
    assert tokens.patches is not None
    torch.testing.assert_close(tokens.patches.mean(dim=1), tokens.cls)
    assert described.parameters == sum(
        p.numel() for name, p in opened.network.named_parameters() if not name.startswith("_fc")
    )
    assert Predictor("efficientnet-lite0")(photographs[:1]).shape == (1, 1280)


def test_a_registered_model_is_resolved_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: list[bytes]
) -> None:
    """An alias that moves between two looks must not mix the weights of one model with the other's preprocessing."""
    moved = tmp_path / "moved"
    save_backbone(moved, network(), PreprocessingConfig.square(28, (0.5,) * 3, (0.5,) * 3).section())
    answers, asked = [folder, moved, moved], []

    def download(uri: str, tracking_uri: str | None = None) -> Path:
        assert uri == "models:/mill/7", "the version that the alias meant at first"
        return answers.pop(0)

    def resolve(uri: str) -> tracking.RegisteredVersion:
        asked.append(uri)
        return tracking.RegisteredVersion("mill", 7, ("champion",), "2e" * 16, {})

    monkeypatch.setattr(tracking, "download", download)
    monkeypatch.setattr(write, "resolve", resolve)
    result = export("models:/mill@champion", "safetensors", tmp_path / "vit")
    assert len(answers) == 2
    assert asked == ["models:/mill@champion"]
    described = features.describe(result.path)
    assert (described.preprocessing, described.pooling) == (SETTINGS, "cls+mean_patch")
    np.testing.assert_array_equal(Predictor(result.path)(photographs), Predictor(folder)(photographs))


def test_programs_that_are_none_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_bytes(b"no program")
    with pytest.raises(InputError, match=r"a\.onnx is no ONNX file"):
        features.describe(tmp_path / "a.onnx")
    pytest.importorskip("openvino")
    (tmp_path / "a.xml").write_bytes(b"no program")
    with pytest.raises(InputError, match=r"a\.xml is no OpenVINO model"):
        features.describe(tmp_path / "a.xml")


def test_a_program_without_images_is_refused(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    one = openvino.opset13.constant(np.ones((1, 4), np.float32))
    openvino.save_model(openvino.Model([openvino.opset13.result(one)], [], "none"), tmp_path / "none.xml")
    with pytest.raises(InputError, match=r"none\.xml does not take images"):
        features.describe(tmp_path / "none.xml")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"pooling": "cIs"}, "does not say how its tokens become an embedding"),
        ({"preprocessing": "[" * 100_000}, "describes no preprocessing"),
        ({"made_from": "[" * 100_000}, None),
        ({"pooling": "mean_patch"}, None),
        ({}, None),
    ],
)
def test_what_a_program_says_of_itself_is_understood_or_refused(told: dict[str, str], said: str | None) -> None:
    def described() -> features.Description:
        return describe_program(
            "vit.onnx",
            Path("vit.onnx"),
            family="ONNX",
            told=told,
            input_shape=[-1, 3, 28, 28],
            dim=64,
            parameters=1,
            paths=(),
            preprocessing=None,
            image_size=None,
        )

    if said is None:
        assert described().pooling == told.get("pooling", "cls")
        return
    with pytest.raises(InputError, match=rf"vit\.onnx {said}"):
        described()


def test_a_program_is_no_model_to_train(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = export(folder, "onnx", tmp_path / "vit").path
    with pytest.raises(InputError, match="cannot be exported"):
        export(path, "safetensors", tmp_path / "again")
    with pytest.raises(InputError, match="no backbone here"):
        _ = Predictor(path).model


def test_an_export_without_preprocessing_needs_one(tmp_path: Path) -> None:
    save_backbone(tmp_path, network())
    with pytest.raises(InputError, match="no section 'preprocessing'"):
        features.describe(tmp_path)
    assert features.open(tmp_path, preprocessing=SETTINGS).preprocessing == SETTINGS


def test_a_broken_header_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "vit.safetensors", metadata={"model": "{"})
    with pytest.raises(InputError, match="describes no model"):
        features.describe(tmp_path / "vit.safetensors")


def test_pixels_of_any_shape(folder: Path) -> None:
    from skimage.data import coffee

    assert Predictor(folder).embed_pixels([coffee(), decode_image(_png(coffee()[:50]))]).shape == (2, 128)


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
