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


def test_bfloat16_is_close(folder: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
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


@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_embeds_with_a_model_of_any_channels(channels: int, images: list[bytes]) -> None:
    """A grey image in memory put to a model of colour said "mat1 and mat2 shapes cannot be multiplied"."""
    predictor = _predictor(channels)
    from skimage.data import astronaut

    colour = np.ascontiguousarray(astronaut()[:40, :52])
    kinds = {"L": None, "LA": None, "RGB": None, "RGBA": None, "P": None, "1": None, "CMYK": "JPEG", "I;16": None}
    files = []
    for mode, form in kinds.items():
        out = io.BytesIO()
        deep = Image.fromarray(colour[..., 0].astype(np.uint16) * 257)
        (deep if mode == "I;16" else Image.fromarray(colour).convert(mode)).save(out, form or "PNG")
        files.append(out.getvalue())
    mixed = predictor([*files, *images])  # of many sizes and modes in one batch
    assert mixed.shape == (len(files) + len(images), 64)
    arrays = [colour[..., 0], colour[..., :1], colour[..., :2], colour, np.dstack([colour, colour[..., :1]])]
    assert np.isfinite(predictor.embed_pixels(arrays)).all()
    with pytest.raises(InputError, match=r"5 channels; the network takes"):
        predictor.embed_pixels([np.zeros((30, 30, 5), np.uint8)])


def test_a_batch_of_other_channels_is_refused_by_both_numbers() -> None:
    predictor = _predictor(3)
    with pytest.raises(InputError, match=r"cannot take this batch") as caught:
        predictor.embed_batch(torch.zeros(2, 1, 28, 28))
    assert "[2, 1, 28, 28]" in str(caught.value)
    assert "[B, 3, H, W]" in str(caught.value)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\] is expected"):
        predictor.model(torch.zeros(2, 1, 28, 28))


def test_a_preprocessing_of_other_channels_or_half_patches_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    model = _predictor(3).model
    grey = PreprocessingConfig.square(28, (0.5,), (0.25,))
    with pytest.raises(InputError, match="takes images of 3 channels"):
        Predictor(model, preprocessing=grey)
    with pytest.raises(InputError, match="patches of 7 pixels"):
        Predictor(model, preprocessing=PreprocessingConfig(image_size=30, resize=30))
    save_backbone(tmp_path, model, grey.section())
    with pytest.raises(InputError, match="takes images of 3 channels"):
        Predictor(tmp_path)
    with pytest.raises(InputError, match="takes images of 3 channels"):
        Predictor("efficientnet-lite0", preprocessing=grey)


def test_one_image_spoils_no_other(folder: Path, images: list[bytes]) -> None:
    predictor = Predictor(folder, batch_size=3, workers=2)
    found = list(predictor.each([images[0], b"no image", images[1], b"", images[2], images[3][:400]]))
    reasons = {place: item.reason for place, item in enumerate(found) if isinstance(item, DecodeError)}
    assert reasons == {1: "not_an_image", 3: "empty", 5: "truncated"}
    good = [item for item in found if not isinstance(item, InputError)]
    np.testing.assert_allclose(np.stack(good), predictor(images[:3]), atol=1e-5)


def test_normalised_embeddings_have_length_one_and_another_identity(folder: Path, images: list[bytes]) -> None:
    for pooling, length in (("cls", None), ("cls+mean_patch", 2**0.5)):
        plain, unit = (Predictor(folder, pooling=pooling, normalise=flag) for flag in (False, True))  # type: ignore[arg-type]
        vectors = plain(images)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if length is not None:
            np.testing.assert_allclose(lengths, length, atol=1e-5)
        np.testing.assert_allclose(unit(images), vectors / lengths, atol=1e-5)
        assert plain.identity != unit.identity
    assert Predictor(folder).identity == Predictor(folder, max_pixels=5).identity


def test_bfloat16_where_there_is_none_is_said_and_not_imitated(
    folder: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    predictor = Predictor(folder, dtype="bfloat16")
    assert predictor.dtype == "float32"
    assert "no products in bfloat16" in caplog.text
    np.testing.assert_array_equal(predictor(images[:2]), Predictor(folder)(images[:2]))


def test_a_limit_of_pixels_holds_for_every_way_of_asking(folder: Path, images: list[bytes]) -> None:
    predictor = Predictor(folder, max_pixels=5_000)
    for ask in (predictor, lambda some: list(predictor.stream(some))):
        with pytest.raises(DecodeError, match="decompression_bomb"):
            ask(images[:1])
    assert isinstance(next(predictor.each(images[:1])), DecodeError)


def test_embeddings_that_are_no_numbers_are_refused(folder: Path, images: list[bytes]) -> None:
    predictor = Predictor(folder)
    with torch.no_grad():
        predictor.model.norm.bias[0] = float("nan")
    with pytest.raises(InputError, match="no numbers"):
        predictor(images[:2])
    assert all(isinstance(item, InputError) for item in predictor.each(images[:2]))


def _predictor(channels: int) -> Predictor:
    torch.manual_seed(0)
    model = VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=1, in_channels=channels))
    return Predictor(model, preprocessing=PreprocessingConfig.square(28, (0.5,) * channels, (0.25,) * channels))
