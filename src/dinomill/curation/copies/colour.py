"""Whether two pictures of the same pattern show other colours: two flags, two skin tones, an icon recoloured.

Signatures see the pattern of brightness alone, and not how strong it is. Here the 8×8 mean colours of two pictures are
compared, after what an edit does to all of a picture has been taken off: exposure and contrast (a gain, an offset, or
both), white balance (a mild gain of each channel), and that what gets too bright is cut off at white. What remains in
the one cell that differs most is the colours' distance, in grey levels.

Measured (docs/curation-quality.md): of edits of one picture (JPEG quality 50 and 30, resized, brightened, gamma,
contrast, white balance) 99 of 100 stay below 12 + 600 / side, where side is the picture's size in pixels: JPEG stores
colours for blocks of 16 pixels, which are much of a small picture. Flags of equal pattern are 25 to 250 apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dinomill.curation.scan.signatures import Colours
from dinomill.vectors.products import Rows

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_BLOCKS = 600.0  # grey levels times pixels
_SHOWS = 10.0  # grey levels between colour and grey from which a cell shows colour
_GAIN, _TINT, _OFFSET = (0.7, 1.4), (0.85, 1.18), (-40.0, 40.0)  # what exposure and white balance may do
_WHITE = 250.0  # a mean above it has lost something
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_PAIRS_AT_ONCE = 8_192


def other_colours(colours: Colours, left: Rows, right: Rows, side: npt.NDArray[np.float64], limit: float) -> Mask:
    """Whether each pair of rows shows colour on both sides, and not the same.

    Args:
        colours: By row.
        left: One row of each pair, [n].
        right: The other.
        side: The size of the smaller one of each pair, in pixels, [n]: the root of width times height.
        limit: Grey levels that the same colours may differ by in a large picture.
    """
    allowed = limit + _BLOCKS / np.maximum(side, 1.0)
    found = np.zeros(len(left), dtype=np.bool_)
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        one, other = colours.take(left[some]), colours.take(right[some])
        both = np.flatnonzero(_shows_colour(one) & _shows_colour(other))
        found[start + both] = distance(one[both], other[both]) > allowed[some][both]
    return found


def distance(one: Floats, other: Floats) -> Floats:
    """How far apart the colours of pairs ``[n, cells, 3]`` are, in grey levels, [n]."""
    return np.asarray(np.minimum(_after_edit(one, other), _after_edit(other, one)), dtype=np.float32)


def _shows_colour(cells: Floats) -> Mask:
    return np.asarray(_chroma(cells).max(axis=1, initial=0) > _SHOWS, dtype=np.bool_)


def _chroma(cells: Floats) -> Floats:
    """How far each cell is from grey, [n, cells]."""
    grey = cells @ _LUMA
    return np.asarray(np.hypot(cells[..., 0] - grey, cells[..., 2] - grey), dtype=np.float32)


def _after_edit(source: Floats, target: Floats) -> Floats:
    """What is left of the distance when ``source`` has been edited to be like ``target``."""
    free: Mask = np.maximum(source, target).max(axis=2, keepdims=True) < _WHITE
    free = free | (free.sum(axis=1, keepdims=True) == 0)  # nothing but what is white in one of them: then all counts
    count = 3 * free.sum(axis=(1, 2), keepdims=True, dtype=np.float32)
    mean_source, mean_target = ((one * free).sum(axis=(1, 2), keepdims=True) / count for one in (source, target))
    brighter = _ratio(source, target, free, axis=(1, 2)).clip(*_GAIN)
    contrast = _ratio(source - mean_source, target - mean_target, free, axis=(1, 2)).clip(*_GAIN)
    edits = (
        source * brighter,
        source + (mean_target - mean_source).clip(*_OFFSET),
        source * contrast + (mean_target - contrast * mean_source).clip(*_OFFSET),
    )
    return np.minimum.reduce([_after_balance(edit, target, free) for edit in edits])


def _after_balance(source: Floats, target: Floats, free: Mask) -> Floats:
    tint = _ratio(source, target, free, axis=(1,)).clip(*_TINT)
    rest = target - (source * tint).clip(0, 255)
    return np.asarray(np.hypot(_chroma(rest), rest @ _LUMA).max(axis=1, initial=0), dtype=np.float32)


def _ratio(source: Floats, target: Floats, free: Mask, axis: tuple[int, ...]) -> Floats:
    """The gain that makes ``source`` most like ``target``."""
    product = (source * target * free).sum(axis=axis, keepdims=True)
    square = (source * source * free).sum(axis=axis, keepdims=True)
    return np.asarray(product / np.maximum(square, 1.0), dtype=np.float32)
