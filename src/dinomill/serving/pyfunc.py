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

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.images.limits import MAX_MEGAPIXELS
from dinomill.serving.predictor import Predictor

COLUMN = "image"


class EmbeddingModel:
    """The object behind ``mlflow.pyfunc.load_model(…)``. PyTorch computes; other backends are the archive's.

    Args:
        folder: Of an exported backbone.
        max_megapixels: Larger images are refused before memory is taken for them.
    """

    def __init__(self, folder: Path, max_megapixels: float = MAX_MEGAPIXELS) -> None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._predictor = Predictor(folder, device=device, max_pixels=round(1e6 * max_megapixels))

    def predict(
        self, model_input: Any, params: Mapping[str, Any] | None = None
    ) -> npt.NDArray[np.float32] | list[list[float] | dict[str, str]]:
        """Embed encoded images.

        Args:
            model_input: A table or mapping with a column ``image`` of bytes, or the bytes themselves in a list. Base64
                is taken for what it stands for: of a request's ``instances`` and ``inputs``, MLflow decodes none.
            params: ``normalise``: divide each embedding by its length.

        Returns:
            ``[N, D]`` float32. Where some images cannot be used: a list, in their places ``{"error": "…"}``, in those
            of the others their embeddings.

        Raises:
            InputError: When there is no such column or parameter, or none of the images can be used.
        """
        normalise = _normalise(params or {})
        read = [_bytes_or_said(one) for one in _encoded(model_input)]
        found = self._predictor.each(one for one in read if isinstance(one, bytes))
        rows = [next(found) if isinstance(one, bytes) else one for one in read]
        vectors = [_unit(row) if normalise else row for row in rows if not isinstance(row, InputError)]
        if len(vectors) == len(rows):
            empty = np.empty((0, self._predictor.embed_dim), np.float32)
            return np.stack(vectors) if vectors else empty
        if not vectors:
            raise next(row for row in rows if isinstance(row, InputError))
        good = iter(vectors)
        return [{"error": str(row)} if isinstance(row, InputError) else next(good).tolist() for row in rows]


def _normalise(params: Mapping[str, Any]) -> bool:
    if unknown := set(params) - {"normalise"}:
        raise InputError(
            f"The model has no parameter {', '.join(sorted(map(str, unknown)))}.", expected="normalise, true or false"
        )
    if not isinstance(wanted := params.get("normalise", False), bool | np.bool_):
        raise InputError("The parameter normalise is neither on nor off.", expected="true or false")
    return bool(wanted)


def _unit(vector: Floats) -> Floats:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def _bytes_or_said(row: Any) -> bytes | InputError:
    """The bytes of an image's file, or why there are none: one of many spoils no other."""
    try:
        return _bytes(row[COLUMN] if isinstance(row, Mapping) and COLUMN in row else row)
    except InputError as error:
        return error


def _encoded(model_input: Any) -> Sequence[Any]:
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
    return list(model_input)


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


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any] | None = None) -> EmbeddingModel:
    """MLflow's entry: make the model of an artifact folder, with the settings that it was registered or loaded with."""
    return EmbeddingModel(Path(data_path), **(model_config or {}))
