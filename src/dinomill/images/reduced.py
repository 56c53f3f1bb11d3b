"""Images at a smaller size than they came: what no training looks at need not be stored, nor decoded each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]


def reduced_size(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """Width and height of an image whose longer side is at most this many pixels; None: any."""
    if max_side is None or max(width, height) <= max_side:
        return width, height
    scale = max_side / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def reduce_to(values: Values, size: tuple[int, int]) -> Values:
    """``[H, W]`` or ``[H, W, C]`` of any numbers at a smaller size (width, height), each the mean of what it covers."""
    import cv2

    if size == values.shape[1::-1]:
        return values
    # OpenCV averages these kinds of numbers; what each of the others holds, one of them does too.
    kind = values.dtype if values.dtype in (np.uint8, np.uint16, np.int16, np.float32) else np.dtype(np.float64)
    smaller = np.asarray(cv2.resize(values.astype(kind, copy=False), size, interpolation=cv2.INTER_AREA))
    if values.dtype.kind in "ui" and kind.kind == "f":
        smaller = np.rint(smaller)
    return smaller.reshape(*smaller.shape[:2], *values.shape[2:]).astype(values.dtype, copy=False)
