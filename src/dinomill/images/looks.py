"""What an image looks like, as a thumbnail and as a 64-bit perceptual hash: copies have the same, or nearly."""

from __future__ import annotations

import numpy as np

from dinomill.arrays import Floats, Pixels

_SIDE = 32  # of the thumbnail


def thumbnail(grey: Pixels) -> Floats:
    """The luminance [H, W] squeezed to [32, 32], free of aliasing."""
    import cv2

    if min(grey.shape) > 4 * _SIDE and max(grey.shape) <= 8 * _SIDE:
        # At most a half, so hardly any aliasing; averaging whole pixels is then three times as fast.
        grey = np.asarray(cv2.resize(grey, (4 * _SIDE, 4 * _SIDE), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    shrink = cv2.INTER_LINEAR if min(grey.shape) < _SIDE else cv2.INTER_AREA
    return np.asarray(cv2.resize(grey, (_SIDE, _SIDE), interpolation=shrink), dtype=np.float32)


def perceptual_hash(small: Floats) -> int:
    """64 bits: which of the 8×8 lowest cosine frequencies of a thumbnail [32, 32] exceed their median."""
    import cv2

    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.partition(low[1:], 31)[31]  # the median of 63; the mean grey is no feature of the picture
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
