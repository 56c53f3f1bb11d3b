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

from dinomill.errors import InputError
from dinomill.registration.example import example_table
from dinomill.serving.pyfunc import EmbeddingModel
from tests.exported import export

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
