"""Every kind of network that can be named, on real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinomill.curation.embedding.embedders import EmbedderConfig, embed, find_network
from dinomill.errors import ConfigError, InputError
from dinomill.images.decode import decode_image


def _pixels(photographs: list[bytes]) -> list[np.ndarray]:
    return [decode_image(data) for data in photographs]


def test_efficientnet_gives_unit_features_whatever_the_batch(photographs: list[bytes]) -> None:
    config = EmbedderConfig(image_size=64, precision="float32")
    features = embed(_pixels(photographs), find_network(config), config)
    assert features.shape == (len(photographs), 1280)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    single = EmbedderConfig(image_size=64, precision="float32", batch=1)
    np.testing.assert_allclose(embed(_pixels(photographs), find_network(single), single), features, atol=1e-5)
    alike = features @ features.T - np.eye(len(features))
    assert alike[2, 5] > 0.99  # the cat is there twice, as PNG and as JPEG
    alike[[2, 5], [5, 2]] = 0
    assert alike.max() < 0.95


def test_our_own_export_is_given_what_it_was_trained_on(backbone: Path, photographs: list[bytes]) -> None:
    from dinomill.serving.predictor import Predictor

    config = EmbedderConfig(network=str(backbone), image_size=224, precision="float32")
    ours = embed(_pixels(photographs), find_network(config), config)
    served = Predictor(backbone)(photographs)
    served = served / np.linalg.norm(served, axis=1, keepdims=True)
    assert ours.shape == served.shape
    assert (ours * served).sum(axis=1).min() > 0.99


def test_an_official_state_dict_sees_whole_patches(tmp_path: Path, photographs: list[bytes]) -> None:
    import torch

    from dinomill.models import build, variant

    torch.manual_seed(0)
    model = build(variant("small", patch_size=14, image_size=518, layerscale=1.0))
    torch.save(model.state_dict(), tmp_path / "official.pth")
    config = EmbedderConfig(network=str(tmp_path / "official.pth"), image_size=64, precision="float32")
    assert embed(_pixels(photographs[:2]), find_network(config), config).shape == (2, 384)


def test_an_onnx_file_is_a_network(tmp_path: Path, photographs: list[bytes]) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    pooled = helper.make_node("GlobalAveragePool", ["image"], ["features"])
    sizes = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [pooled],
        "mean colour",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "mean.onnx")
    config = EmbedderConfig(network=str(tmp_path / "mean.onnx"), image_size=32)
    features = embed(_pixels(photographs), find_network(config), config)
    assert features.shape == (len(photographs), 3)


def test_an_unknown_network_says_what_there_is() -> None:
    with pytest.raises(InputError, match="no network 'resnet'") as caught:
        find_network(EmbedderConfig(network="resnet"))
    assert "efficientnet-lite0" in str(caught.value)


def test_a_registered_model_is_found_by_its_alias_and_pooled_as_it_says(
    tmp_path: Path, photographs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a local SQLite registry; the embedding is what the served model would answer."""
    import torch

    from dinomill import tracking
    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.models import build, save_backbone, variant
    from dinomill.registration.example import example_table
    from dinomill.serving.predictor import Predictor

    torch.manual_seed(0)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    folder = tmp_path / "export"
    model = build(variant("nano", patch_size=8, image_size=64, layerscale=1.0, pooling="cls+mean_patch"))
    save_backbone(folder, model, PreprocessingConfig.square(64, (0.5,) * 3, (0.25,) * 3).section())
    with tracking.open_run("a test", tracking_uri=store) as run:
        card = tracking.ModelCard(
            loader="dinomill.serving.pyfunc",
            example=example_table(3, 64),
            embed_dim=2 * model.embed_dim,
            requirements=(),
            metrics={},
            tags={},
            description="",
            summary="",
        )
        version = tracking.register(run, "mill", folder, card)
    tracking.set_alias(store, "mill", "candidate", version.version)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    config = EmbedderConfig(network="models:/mill@candidate", precision="float32")
    ours = embed(_pixels(photographs), find_network(config), config)
    served = Predictor(folder)(photographs)
    assert ours.shape == served.shape == (len(photographs), 2 * model.embed_dim)
    assert (ours * served / np.linalg.norm(served, axis=1, keepdims=True)).sum(axis=1).min() > 0.99


def test_a_cpu_computes_in_float32_unless_it_is_asked(photographs: list[bytes], backbone: Path) -> None:
    for network in ("efficientnet-lite0", str(backbone)):
        of = {
            precision: embed(_pixels(photographs), find_network(config), config)
            for precision in ("auto", "float32", "float64")
            for config in [EmbedderConfig(network=network, image_size=64, precision=precision, device="cpu")]
        }
        assert (of["auto"] == of["float32"]).all()
        np.testing.assert_allclose(of["float64"], of["float32"], atol=1e-5)
        assert (of["float64"] != of["float32"]).any()


def test_a_network_of_another_runtime_says_that_it_has_no_float64(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 64, 64])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "mean", [image], [features])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "mean.onnx")
    config = EmbedderConfig(network=str(tmp_path / "mean.onnx"), image_size=64, precision="float64")

    with pytest.raises(ConfigError, match="cannot compute in float64"):
        embed([np.zeros((64, 64, 3), np.uint8)], find_network(config), config)
