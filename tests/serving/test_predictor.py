"""The predictor: same embeddings as the model run by hand, whatever the batch, the threads and the precision."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinomill.errors import ConfigError, InputError
from dinomill.images.decode import DecodeError
from dinomill.images.preprocess import PreprocessingConfig, preprocess, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.serving.predictor import Predictor

SETTINGS = PreprocessingConfig.square(28, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), margin=1.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=2, layerscale=1.0))
    path = tmp_path_factory.mktemp("export")
    save_backbone(path, model, SETTINGS.section())
    return path


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    from skimage.data import astronaut, coffee

    rng = np.random.default_rng(0)
    encoded = []
    for number in range(7):
        picture = Image.fromarray(astronaut() if number % 2 else coffee())
        left, top = (int(value) for value in rng.integers(0, 200, 2))
        out = io.BytesIO()
        picture.crop((left, top, left + 90 + 20 * number, top + 100)).save(out, "JPEG" if number % 3 else "PNG")
        encoded.append(out.getvalue())
    return encoded


def test_embeddings_are_those_of_the_model(folder: Path, images: list[bytes]) -> None:
    predictor = Predictor(folder, batch_size=3)
    embeddings = predictor(images)
    assert embeddings.shape == (7, predictor.embed_dim)
    assert embeddings.dtype == np.float32
    batch = torch.from_numpy(np.stack([preprocess_bytes(image, SETTINGS) for image in images]))
    with torch.no_grad():
        outputs = predictor.model.forward_features(batch)
    np.testing.assert_allclose(embeddings, outputs["x_norm_clstoken"].numpy(), atol=1e-5)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3
    both = Predictor(folder, pooling="cls+mean_patch", workers=2)
    halves = [embeddings, outputs["x_norm_patchtokens"].mean(1).numpy()]
    expected = np.concatenate([half / np.linalg.norm(half, axis=1, keepdims=True) for half in halves], axis=1)
    np.testing.assert_allclose(both(images), expected, atol=1e-5)
    assert both.embed_dim == expected.shape[1]
    np.testing.assert_allclose(np.concatenate(list(both.stream(iter(images)))), expected, atol=1e-5)


def test_bfloat16_is_close(folder: Path, images: list[bytes]) -> None:
    exact, half = Predictor(folder)(images), Predictor(folder, dtype="bfloat16")(images)
    cosine = (exact * half).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
    assert half.dtype == np.float32
    assert cosine.min() > 0.999


def test_no_images_give_an_empty_table(folder: Path) -> None:
    assert Predictor(folder)([]).shape == (0, 64)


def test_errors_name_what_is_wrong(folder: Path, images: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="truncated"):
        Predictor(folder)([images[0][:500]])
    model = Predictor(folder).model
    with pytest.raises(InputError, match="preprocessing"):
        Predictor(model)
    save_backbone(tmp_path, model)
    with pytest.raises(InputError, match="no section 'preprocessing'"):
        Predictor(tmp_path)
    with pytest.raises(InputError, match="holds no weights"):
        Predictor(tmp_path.parent)
    with pytest.raises(InputError, match="pooling"):
        Predictor(folder, pooling="max")  # type: ignore[arg-type]


def test_preprocessing_geometry_and_values() -> None:
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[25:35, 15:25] = 255
    config = PreprocessingConfig(image_size=20, resize=20, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0))
    x = preprocess(pixels, config)
    assert x.shape == (3, 20, 20)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:, 10, 10], [1.0, 2.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(x[:, 0, 0], [-1.0, -2.0, -0.5], atol=1e-6)
    np.testing.assert_allclose(x, x[:, ::-1, ::-1], atol=0.05)  # centred, up to the resizer's rounding
    six = PreprocessingConfig(image_size=8, resize=10, mean=(0.5,) * 6, std=(0.5,) * 6)
    assert preprocess(np.full((9, 30, 6), 255, np.uint8), six).tolist() == np.ones((6, 8, 8)).tolist()


def test_preprocessing_refuses_nonsense() -> None:
    for values in ({"mean": [0.5]}, {"std": [1, 1, 0]}, {"resize": 100, "image_size": 224}, {"imagesize": 3}):
        with pytest.raises(ConfigError):
            PreprocessingConfig.parse(values, where="a test")
