"""What MLflow makes of a request's JSON, as its scoring server does, reaches the model whole."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.models.utils import _enforce_schema
from mlflow.pyfunc.scoring_server import infer_and_parse_data
from mlflow.types.schema import ColSpec, Schema
from PIL import Image

from dinomill.errors import InputError
from dinomill.registration.example import example_table
from dinomill.serving.pyfunc import EmbeddingModel, _load_pyfunc
from tests.exported import export
from tests.images.elongated import png

SCHEMA = Schema([ColSpec("binary", "image")])
IMAGES: list[bytes] = example_table(3, 16)["image"].tolist() + example_table(3, 30)["image"].tolist()
TEXTS = [base64.b64encode(image).decode() for image in IMAGES]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingModel:
    return EmbeddingModel(export(tmp_path_factory.mktemp("model"), "small", depth=1, seed=1).folder)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"image": text} for text in TEXTS]},
        {"instances": TEXTS},
        {"inputs": {"image": TEXTS}},
        {"inputs": TEXTS},
        {"inputs": [{"image": text} for text in TEXTS]},
        {"dataframe_records": [{"image": text} for text in TEXTS]},
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in TEXTS]}},
    ],
    ids=["instances, rows", "instances", "inputs, columns", "inputs", "inputs, rows", "records", "split"],
)
def test_every_form_of_a_request(model: EmbeddingModel, body: dict[str, Any]) -> None:
    table = _enforce_schema(infer_and_parse_data(body, SCHEMA), SCHEMA)
    np.testing.assert_array_equal(model.predict(table), model.predict(IMAGES))


def test_given_directly(model: EmbeddingModel, tmp_path: Path) -> None:
    expected = model.predict(IMAGES)
    for given in (
        TEXTS,
        {"image": IMAGES},
        [{"image": image} for image in IMAGES],
        [memoryview(one) for one in IMAGES],
    ):
        np.testing.assert_array_equal(model.predict(given), expected)
    np.testing.assert_array_equal(model.predict(IMAGES[0]), expected[:1])


@pytest.mark.parametrize("given", [["no base64!"], [3], {"picture": IMAGES}, [b"abcd"], ["YWJj"]])
def test_what_is_no_image(model: EmbeddingModel, given: Any) -> None:
    with pytest.raises(InputError):
        model.predict(given)


def test_a_bad_image_loses_its_own_row_alone(model: EmbeddingModel) -> None:
    expected = model.predict(IMAGES)
    found = model.predict([IMAGES[0], b"garbage", 3, IMAGES[1], IMAGES[0][:30], "no base64!"])
    assert isinstance(found, list)
    np.testing.assert_array_equal([found[0], found[3]], expected[:2])
    said = [found[index] for index in (1, 2, 4, 5)]
    assert all(isinstance(one, dict) and set(one) == {"error"} for one in said)
    assert [str(one["error"]).split(":")[0].splitlines()[0] for one in said] == [  # type: ignore[call-overload]
        "The image cannot be used (not_an_image)",
        "The model takes the bytes of image files.",
        "The image cannot be used (truncated)",
        "The model takes the bytes of image files.",
    ]


def test_an_image_larger_than_is_allowed_is_refused(model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # Pillow's own: a server's worker lowers it
    large = png(7000, 6000)
    with pytest.raises(InputError, match=r"decompression_bomb.*at most 40,000,000"):
        model.predict([large])
    assert isinstance(model.predict([large, IMAGES[0]]), list)


def test_the_limit_is_the_operators(model: EmbeddingModel, tmp_path: Path) -> None:
    folder = export(tmp_path, "small", depth=1, seed=1).folder
    with pytest.raises(InputError, match="decompression_bomb"):
        _load_pyfunc(str(folder), {"max_megapixels": 0.0001}).predict(IMAGES[:1])
    np.testing.assert_array_equal(_load_pyfunc(str(folder)).predict(IMAGES), model.predict(IMAGES))


def test_embeddings_of_length_one(model: EmbeddingModel) -> None:
    plain = model.predict(IMAGES)
    np.testing.assert_array_equal(model.predict(IMAGES, {"normalise": False}), plain)
    unit = model.predict(IMAGES, {"normalise": True})
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-6)
    assert isinstance(unit, np.ndarray)
    assert unit.dtype == np.float32
    for params in ({"normalize": True}, {"normalise": "yes"}):
        with pytest.raises(InputError, match="normalise"):
            model.predict(IMAGES, params)


def test_of_nothing_there_is_nothing(model: EmbeddingModel) -> None:
    assert model.predict([]).shape == (0, 64)  # type: ignore[union-attr]
