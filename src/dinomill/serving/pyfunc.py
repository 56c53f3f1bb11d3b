"""What MLflow imports to serve a registered backbone: a table of encoded images in, embeddings out.

MLflow calls ``_load_pyfunc`` with the folder of the export (``loader_module`` in the model's ``MLmodel`` file): no code
and no pickle travels with the weights, and this module need not import MLflow.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.errors import InputError
from dinomill.serving.predictor import Predictor

COLUMN = "image"


class EmbeddingModel:
    """The object behind ``mlflow.pyfunc.load_model(…)``.

    Args:
        folder: Of an exported backbone.
    """

    def __init__(self, folder: Path) -> None:
        import torch

        self._predictor = Predictor(folder, device="cuda" if torch.cuda.is_available() else "cpu")

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> npt.NDArray[np.float32]:
        """Embed encoded images.

        Args:
            model_input: A table or mapping with a column ``image`` of bytes, or the bytes themselves in a list. Base64
                is taken for what it stands for: of a request's ``instances`` and ``inputs``, MLflow decodes none.
            params: None are known.

        Returns:
            ``[N, D]`` float32.

        Raises:
            InputError: When there is no such column, or what it holds is no image.
        """
        if params:
            raise InputError(f"The model takes no parameters, and was given {', '.join(params)}.")
        return self._predictor(_encoded(model_input))


def _encoded(model_input: Any) -> Sequence[bytes]:
    if hasattr(model_input, "columns") or isinstance(model_input, Mapping):
        columns = list(model_input.columns if hasattr(model_input, "columns") else model_input)
        if COLUMN not in columns:
            raise InputError(
                f"The table has no column {COLUMN!r}.",
                found=", ".join(map(str, columns)),
                expected=f"a column {COLUMN!r} with the bytes of an image file in each row",
            )
        model_input = model_input[COLUMN]
    if isinstance(model_input, str | bytes | bytearray | memoryview):
        model_input = [model_input]
    return [_bytes(row[COLUMN] if isinstance(row, Mapping) and COLUMN in row else row) for row in model_input]


def _bytes(image: Any) -> bytes:
    """The bytes of an image's file; none is base64 from its first byte to its last."""
    if isinstance(image, bytes | bytearray | memoryview):
        given = bytes(image)
    elif isinstance(image, str):
        given = image.encode("ascii", "replace")
    else:
        raise InputError(
            "The model takes the bytes of image files.",
            found=type(image).__name__,
            expected="bytes, such as open(path, 'rb').read(), or base64 of them",
        )
    with suppress(binascii.Error):
        return base64.b64decode(given, validate=True)
    if isinstance(image, str):
        raise InputError("The model takes the bytes of image files.", found="text", expected="base64 of the bytes")
    return given


def _load_pyfunc(data_path: str) -> EmbeddingModel:
    """MLflow's entry: make the model of an artifact folder."""
    return EmbeddingModel(Path(data_path))
