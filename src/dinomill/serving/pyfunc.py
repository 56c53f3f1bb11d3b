"""What MLflow imports to serve a registered backbone: a table of encoded images in, embeddings out.

MLflow calls ``_load_pyfunc`` with the folder of the export (``loader_module`` in the model's ``MLmodel`` file): no code
and no pickle travels with the weights, and this module need not import MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
            model_input: A table with a column ``image`` of bytes, or the bytes themselves in a list.
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
    if hasattr(model_input, "columns"):
        if COLUMN not in model_input.columns:
            raise InputError(
                f"The table has no column {COLUMN!r}.",
                found=", ".join(map(str, model_input.columns)),
                expected=f"a column {COLUMN!r} with the bytes of an image file in each row",
            )
        model_input = model_input[COLUMN].tolist()
    images = list(model_input)
    for image in images:
        if not isinstance(image, bytes | bytearray | memoryview):
            raise InputError(
                "The model takes the bytes of image files.",
                found=type(image).__name__,
                expected="bytes, such as open(path, 'rb').read()",
            )
    return [bytes(image) for image in images]


def _load_pyfunc(data_path: str) -> EmbeddingModel:
    """MLflow's entry: make the model of an artifact folder."""
    return EmbeddingModel(Path(data_path))
