"""What to do when a set of seeds does not ask for what it should."""

from __future__ import annotations

from typing import NamedTuple

from dinomill.curation.handles import Verdict

# Base and environments say different keys, and one that nobody has said yet is nowhere to be found.
_WHERE = "in curation/parameters.yml of the environment (conf/NAME, or conf/base), where it may have to be added"
# Sides of pictures, in pixels, from which on the network sees more at the next larger size; planning chooses alike.
_SIZES = ((96, 224), (48, 128), (0, 64))


class Circumstances(NamedTuple):
    """What is known of the features and of the pool."""

    squeezed: bool  # the network is given images of the configured size, and not of one that it knows itself
    image_size: int
    whitened: bool
    short_side: float  # of the pool's images, median, pixels
    mode: str
    coverage: float
    key: str  # of the set's settings


def remedies(now: Circumstances) -> dict[Verdict, str]:
    """What helps against which verdict; empty: nothing needs to."""
    finer = _finer(now)
    unlike = "give seeds in the styles and kinds that the pool holds, and kinds that differ a set of their own"
    lower = f"; or lower {now.key}.coverage, now {now.coverage:g}, {_WHERE}" if now.mode == "similar" else ""
    hardly = finer or _whiter(now) or f"{unlike}{lower}"
    return {
        "separates": "",
        "partly": hardly,
        "hardly": hardly,
        "most": "the page shows the last images that it asks for: if these are wanted, nothing needs to be done, and "
        f"the pool hardly needs seeds; if they are not, {hardly}",
        "everything": "if the pool holds nothing else, it needs no seeds; else "
        + (finer or "give seeds that show fewer kinds of images, or a set for each kind"),
        "nothing": "see whether the pool holds such images at all; copies of one picture are no good seeds: give "
        "different ones, best from the pool itself",
        "unknown": "give 20 different ones at least; 100 and more judge well",
    }


def _finer(now: Circumstances) -> str:
    """A larger image size, where the pictures show more than the network is given."""
    size = next(size for side, size in _SIZES if now.short_side >= side)
    if not now.squeezed or now.image_size >= size:
        return ""
    return f"raise curation.embedding.embedder.image_size from {now.image_size} to {size}, {_WHERE}"


def _whiter(now: Circumstances) -> str:
    return "" if now.whitened else f"set curation.embedding.whiten to 0.01, {_WHERE}; it spreads the features evenly"
