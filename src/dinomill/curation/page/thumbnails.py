"""Small inlined pictures of scanned files, for the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinomill.curation.content.faces import as_boxes, blur_faces
from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.scan.preflight import EMPTY_TILE
from dinomill.errors import DinomillError
from dinomill.images.decode import decode_image
from dinomill.images.listing import read_row

_SIDE = 112  # pixels: half as large again as shown, for dense screens
_SMALL = 40  # pixels: up to this side PNG is no larger than JPEG, and its pixels are shown as they are


@dataclass(frozen=True)
class Thumb:
    """A small inlined picture, or its name alone when it cannot be read."""

    uri: str
    name: str
    note: str = ""


class Pictures:
    """Thumbnails of rows of the scan.

    Args:
        files: Columns of ``COLUMNS``.
        filters: What the dataset must not show, the page does not show either: faces are blurred, and what is beyond
            the limit of unsafe content is hidden.
    """

    COLUMNS = ("group", "source", "path", "bytes", "start", "place", "reason", "detail", "nsfw", "face_boxes")

    def __init__(self, files: pa.Table, filters: FilterConfig) -> None:
        self._files = files
        self._filters = filters
        self._made: dict[int, tuple[str, str, str]] = {}  # a picture is asked for more than once

    def thumb(self, row: int, note: str = "") -> Thumb:
        """The picture of a row; ``note`` stands under it."""
        row = int(row)
        if row not in self._made:
            self._made[row] = self._make(row)
        uri, name, fault = self._made[row]
        return Thumb(uri, name, note or fault)

    def _make(self, row: int) -> tuple[str, str, str]:
        columns = self._files.slice(row, 1).to_pylist()[0]
        if columns["reason"] not in (None, EMPTY_TILE):
            return "", columns["path"], ""  # it has no picture; what is wrong the ledger says
        try:
            pixels = decode_image(read_row(columns), min_side=_SIDE)
        except (DinomillError, OSError) as error:
            return "", columns["path"], str(error).splitlines()[0]
        limit, faces = self._filters.max_nsfw, self._filters.faces
        if limit is not None and columns["nsfw"] is not None and columns["nsfw"] > limit:
            pixels = _hidden(pixels)
        elif faces is not None and faces.blur and columns["face_boxes"]:
            pixels = blur_faces(pixels, as_boxes(columns["face_boxes"]), faces.margin)
        return data_uri(pixels), columns["path"], ""


def _hidden(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A few patches of colour in place of a picture that nobody needs to see."""
    import cv2

    patches = cv2.resize(pixels, (4, 4), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(patches, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Pixels ``[H, W, C]`` as a data URI, not longer than a thumbnail."""
    from PIL import Image

    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    image.thumbnail((_SIDE, _SIDE))
    kind = "PNG" if max(pixels.shape[:2]) <= _SMALL else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
