"""How many of a pool's images are different pictures, as far as a sample can tell.

Two images count as one picture where their files are the same, or where their thumbnails are, up to what a new
compression changes. That is stricter than curation's copies: here a number is wanted, and nothing is taken out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_GREY_LEVELS = 2.0  # that two thumbnails of one picture may differ by, at any place
_OF_CONTRAST = 0.1  # … and of the thumbnail's own spread: dark pictures differ by little
_REPEATED = 5  # groups of copies in a sample, from which on they tell of copies outside of it


def copied_share(digests: Sequence[bytes], thumbnails: npt.NDArray[np.float32], usable: int) -> float:
    """Share of the usable images that repeat another one.

    Args:
        digests: Of the files looked at.
        thumbnails: Of the same, ``[N, 32, 32]`` grey levels.
        usable: Images of the whole pool.
    """
    sizes = Counter(Counter(pictures(digests, thumbnails)).values())
    looked, seen = len(digests), sum(sizes.values())
    if looked >= usable:
        return 1 - seen / looked
    distinct = usable * seen / looked
    repeated = seen - sizes[1]
    if repeated >= _REPEATED or 2 * repeated > seen:
        # Chao's estimate of what a sample has not met, from what it met once and twice.
        distinct = min(distinct, seen + sizes[1] * (sizes[1] - 1) / (2 * (sizes[2] + 1)))
    return 1 - max(distinct, 1) / usable


def pictures(digests: Sequence[bytes], thumbnails: npt.NDArray[np.float32]) -> list[int]:
    """For each image the first that shows the same picture, by its number."""
    rows = thumbnails.reshape(len(thumbnails), -1)
    allowed = np.minimum(_GREY_LEVELS, _OF_CONTRAST * rows.std(axis=1))
    first: dict[bytes, int] = {}
    own: list[int] = []  # the numbers of pictures met so far
    found = []
    for number, digest in enumerate(digests):
        same = first.get(digest)
        if same is None and own:
            near = np.abs(rows[own] - rows[number]).max(axis=1) < allowed[number]
            same = own[int(np.argmax(near))] if near.any() else None
        if same is None:
            own.append(number)
            same = number
        first.setdefault(digest, same)
        found.append(same)
    return found
