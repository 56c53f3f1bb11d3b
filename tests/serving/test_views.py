"""More of an image than its embedding: what is shown is what the network gives, and a bad image spoils itself alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinomill import features
from dinomill.errors import InputError
from dinomill.features.probe import Probe
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.serving.answers import as_bytes, as_json, negotiate
from dinomill.serving.predictor import Predictor
from dinomill.serving.views import VIEWS, Index, parse_views, picture_of

SETTINGS = PreprocessingConfig.square(42, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
ROWS = [{"path": f"{number}.jpg", "sha256": str(number) * 8, "cluster": number} for number in range(6)]


@pytest.fixture
def folder(tmp_path: Path, photographs: list[bytes]) -> Path:
    """A network with a probe of two classes and an index of the photographs."""
    torch.manual_seed(0)
    config = variant("nano", patch_size=7, image_size=42, depth=1, layerscale=1.0, pooling="cls+mean_patch")
    save_backbone(tmp_path, VisionTransformer(config), SETTINGS.section())
    embeddings = Predictor(tmp_path)(photographs)
    Index.build(embeddings, ROWS).save(tmp_path)
    weight = np.stack([embeddings[0], embeddings[1]])
    Probe(weight, np.zeros(2, np.float32), ("astronaut", "coffee")).save(tmp_path / "probe.safetensors")
    return tmp_path


def test_every_view_is_what_the_network_gives(folder: Path, photographs: list[bytes]) -> None:
    predictor = Predictor(folder, batch_size=2)
    seen = list(predictor.see([*photographs[:2], b"no image", photographs[2]], VIEWS))
    assert isinstance(seen[2], InputError)
    batch = torch.from_numpy(np.stack([preprocess_bytes(image, SETTINGS) for image in photographs[:2]]))
    with torch.inference_mode():
        tokens = features.open(folder)(batch)
    expected = predictor(photographs[:2])
    for number in range(2):
        one = seen[number]
        assert not isinstance(one, InputError)
        assert tuple(one) == VIEWS
        np.testing.assert_allclose(one["embedding"], expected[number], atol=1e-6)
        np.testing.assert_allclose(one["cls"], tokens.cls[number], atol=1e-6)
        np.testing.assert_allclose(one["mean_patch"], tokens.mean_patch[number], atol=1e-6)
        assert tokens.patches is not None
        np.testing.assert_allclose(one["patches"].reshape(36, -1), tokens.patches[number], atol=1e-6)
        nearest = one["neighbours"][0]
        assert {key: nearest[key] for key in ROWS[0]} == ROWS[number]
        assert nearest["cosine"] == pytest.approx(1, abs=2e-3)
        assert [row["cosine"] for row in one["neighbours"]] == sorted(r["cosine"] for r in one["neighbours"])[::-1]
        assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-4)
        assert set(one["scores"]) == {"astronaut", "coffee"}
        assert Image.open(io.BytesIO(one["pca"])).size == (228, 228)
        assert set(as_json(one)) == set(VIEWS)


def test_without_probe_and_index_they_are_refused(folder: Path, photographs: list[bytes]) -> None:
    for name in ("probe.safetensors", "index.safetensors"):
        (folder / name).unlink()
    for view in ("scores", "neighbours"):
        with pytest.raises(InputError, match="This model has no"):
            list(Predictor(folder).see(photographs[:1], [view]))  # type: ignore[list-item]
    assert len(list(Predictor(folder).see(photographs[:1], ["cls"]))) == 1


def test_what_does_not_fit_the_network_is_refused(folder: Path, photographs: list[bytes]) -> None:
    Probe(np.ones((2, 5), np.float32), np.zeros(2, np.float32), ("a", "b")).save(folder / "probe.safetensors")
    (folder / "index.json").write_text("[]")
    with pytest.raises(InputError, match="does not fit the network"):
        list(Predictor(folder).see(photographs[:1], ["scores"]))
    with pytest.raises(InputError, match="does not fit"):
        list(Predictor(folder).see(photographs[:1], ["neighbours"]))
    (folder / "probe.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match="cannot be read"):
        list(Predictor(folder).see(photographs[:1], ["scores"]))


def test_the_picture_separates_what_differs() -> None:
    patches = np.zeros((4, 6, 8), np.float32)
    patches[:, 3:, 0] = 5
    shown = np.asarray(Image.open(io.BytesIO(picture_of(patches))).convert("RGB")).astype(int)
    left, right = shown[:, : shown.shape[1] // 3], shown[:, -shown.shape[1] // 3 :]
    assert abs(left[..., 0].mean() - right[..., 0].mean()) > 200
    assert picture_of(np.zeros((2, 2, 4), np.float32))[:4] == b"\x89PNG"


def test_views_are_named_by_a_request() -> None:
    assert parse_views("cls, pca,cls") == ("cls", "pca")
    assert parse_views(["patches"]) == ("patches",)
    for wrong in ("nothing", "", [], [1], {"cls": 1}, None):
        with pytest.raises(InputError, match="wanted"):
            parse_views(wrong)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "json"),
        ("*/*", "json"),
        ("application/json", "json"),
        ("text/html, application/json;q=0.9", "json"),
        ("application/octet-stream", "float32"),
        ("application/octet-stream; dtype=float16", "float16"),
        ('Application/Octet-Stream;dtype="float32", application/json', "float32"),
        ("image/png, application/json", "json"),
        ("application/octet-stream;q=0, application/json", "json"),
        ("application/json;Q=0.000, application/octet-stream; dtype=float16; q=0.1", "float16"),
    ],
)
def test_the_form_of_an_answer_is_negotiated(accept: str | None, form: str) -> None:
    assert negotiate(accept) == form


def test_forms_that_there_are_not_are_refused() -> None:
    with pytest.raises(InputError, match="no answer in a form"):
        negotiate("image/png")
    with pytest.raises(InputError, match="no answer in a form"):
        negotiate("application/json; q=0.0")
    with pytest.raises(InputError, match="type of number"):
        negotiate("application/octet-stream; dtype=int4")
    with pytest.raises(InputError, match="float16"):
        as_bytes([np.array([1e6], np.float32)], "float16")


def test_bytes_are_rows_of_little_endian_numbers() -> None:
    rows = [np.array([1.5, -2], np.float32), np.array([0, 4], np.float32)]
    assert np.frombuffer(as_bytes(rows, "float32"), "<f4").tolist() == [1.5, -2, 0, 4]
    assert np.frombuffer(as_bytes(rows, "float16"), "<f2").tolist() == [1.5, -2, 0, 4]
