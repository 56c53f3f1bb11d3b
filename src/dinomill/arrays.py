"""What arrays are called here: one name for each kind, everywhere; shapes are said where an array is used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""An image or several, [..., H, W, C]."""

Floats = npt.NDArray[np.float32]
"""Features and whatever else networks take and give."""

Figures = npt.NDArray[np.float64]
"""Measures, sums and statistics: what must not lose digits."""

Rows = npt.NDArray[np.int64]
"""Numbers of rows, of images, of anything that is counted."""

Mask = npt.NDArray[np.bool_]
"""Yes or no of each."""

Bytes = npt.NDArray[np.uint8]
"""A piece of memory, [N], whatever lies in it."""
