"""Pixel formats to uint8 [H, W, C]: transparency, 16-bit and floating-point values, many channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinomill.images.cut import Cut, upright_part
from dinomill.images.decode_error import DecodeError, Reason

_PIECE = 1 << 20  # pixels that are converted at once: what converts them takes several times their memory


def compose_on_white(image: Image.Image) -> Image.Image:
    """Put an image with any kind of transparency on white: cut-outs are photographed on white more often than not."""
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if not transparent:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)


def on_white(stored: npt.NDArray[Any], *, associated: bool) -> npt.NDArray[Any]:
    """Put stored values ``[H, W, C + 1]`` whose last channel is transparency on white, ``[H, W, C]`` of the same type.

    Args:
        stored: Integers or floats (0 to 1).
        associated: Whether the colours are multiplied by the transparency already.
    """
    whole = np.iinfo(stored.dtype).max if stored.dtype.kind in "ui" else 1.0
    flat = stored.reshape(-1, stored.shape[-1])
    made = np.empty((len(flat), stored.shape[-1] - 1), stored.dtype)
    for piece in _pieces(len(flat)):
        colours, alpha = flat[piece, :-1].astype(np.float64), flat[piece, -1:].astype(np.float64) / whole
        mixed = (colours if associated else colours * alpha) + whole * (1 - alpha)
        made[piece] = np.clip(np.rint(mixed) if stored.dtype.kind in "ui" else mixed, 0, whole)
    return made.reshape(*stored.shape[:-1], -1)


def to_uint8(stored: npt.NDArray[np.generic], value_range: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
    """Map stored numbers to 0…255.

    Args:
        stored: Any shape; integers or floats.
        value_range: Values that become 0 and 255, others are clipped; 8 bits stay as they are. None: the type's whole
            range, floats 0 to 1.

    Raises:
        DecodeError: unsupported, when floats or 32-bit integers come without a range and cannot be guessed.
    """
    if stored.dtype == np.uint8:
        return stored.view(np.uint8)
    if stored.dtype == np.bool_:
        return stored.astype(np.uint8) * np.uint8(255)
    flat = stored.reshape(-1)
    # A piece at a time: of a large picture, four bytes a value more are gigabytes.
    if stored.dtype.kind == "f" and not all(
        np.isfinite(flat[piece].astype(np.float32)).all() for piece in _pieces(flat.size)
    ):
        raise DecodeError(Reason.UNSUPPORTED, "values that are not finite")
    low, high = value_range or _natural_range(flat)
    made = np.empty(flat.size, np.uint8)
    for piece in _pieces(flat.size):
        values = flat[piece].astype(np.float32)
        values -= low
        values *= 255.0 / (high - low)
        values += 0.5
        made[piece] = np.clip(values, 0, 255, out=values)
    return made.reshape(stored.shape)


def _pieces(count: int) -> Iterator[slice]:
    return (slice(start, start + _PIECE) for start in range(0, count, _PIECE))


def used_bits(largest: float) -> int | None:
    """How many bits the values of 16-bit files use, 8 to 14; None: all of them, or so few that nobody knows."""
    bits = max(int(largest).bit_length(), 8)
    return bits if bits <= 14 and largest > 0 else None


Range = tuple[float, float]
_APART = 4.0  # times: beyond it one range shows pictures of the one kind and hides those of the other


def kind_of(mode: str) -> str:
    """What files of more than 8 bits hold, for people, by their mode: ``uint16``, ``I;16``, ``float32``."""
    if mode.startswith(("I;16", "uint16")):
        return "16-bit integers"
    return "floats" if mode.startswith(("F", "float")) else "other integers"


def fitting_range(seen: Sequence[tuple[Range, str]]) -> Range | None:
    """What should be black and white among files of more than 8 bits.

    None: the type's own range does, or no one range does (`unlike_kinds`).

    Args:
        seen: Least and largest value of each, and its mode.
    """
    kinds = _by_kind(seen)
    if unlike_kinds(seen) or all(_own_range(kind, some) is None for kind, some in kinds.items()):
        return None
    if len(kinds) == 1:
        return next(_own_range(kind, some) for kind, some in kinds.items())
    return _most_fit([values for values, _ in seen])


def unlike_kinds(seen: Sequence[tuple[Range, str]]) -> dict[str, Range]:
    """The kinds of files, each with its range, where no one range suits them all; nothing where one does."""
    natural = {"16-bit integers": (0.0, 65535.0), "floats": (0.0, 1.0)}
    found = {}
    for kind, some in _by_kind(seen).items():
        own = _own_range(kind, some) or natural.get(kind)
        if own is not None:
            found[kind] = own
    tops = [max(abs(low), abs(high)) for low, high in found.values()]
    return dict(sorted(found.items())) if tops and max(tops) > _APART * min(tops) else {}


def kinds_in_words(kinds: Mapping[str, Range]) -> str:
    """``16-bit integers from 0 to 4,095, floats from 0 to 1``."""
    return ", ".join(f"{kind} from {low:,.6g} to {high:,.6g}" for kind, (low, high) in kinds.items())


def _by_kind(seen: Sequence[tuple[Range, str]]) -> dict[str, list[Range]]:
    found: dict[str, list[Range]] = {}
    for values, mode in seen:
        found.setdefault(kind_of(mode), []).append(values)
    return found


def _own_range(kind: str, seen: Sequence[Range]) -> Range | None:
    """What should be black and white in files of one kind; None: what the type says, or nothing shows."""
    low, high = min(values[0] for values in seen), max(values[1] for values in seen)
    if kind == "16-bit integers":
        bits = used_bits(high)
        return None if bits is None else (0.0, float(2**bits - 1))
    if kind == "floats" and low >= 0 and high <= 1:
        return None
    return _most_fit(seen)


def _most_fit(seen: Sequence[Range]) -> Range | None:
    # One glowing pixel is not to make all others black: nineteen of twenty pictures fit.
    tops, bottoms = sorted(values[1] for values in seen), sorted(values[0] for values in seen)
    last = len(seen) - 1
    low, high = bottoms[round(0.05 * last)], tops[round(0.95 * last)]
    return (low, high) if low < high else None


def _natural_range(values: npt.NDArray[np.generic]) -> tuple[float, float]:
    dtype = values.dtype
    if dtype.kind in "ui" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        return float(limits.min), float(limits.max)
    low, high = float(np.float32(values.min())), float(np.float32(values.max()))
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    raise DecodeError(
        Reason.UNSUPPORTED,
        f"{dtype} values from {low:g} to {high:g}: say which of them are black and white "
        f"(curation.scan.preflight.value_range: [{low:g}, {high:g}])",
        "value_range",
    )


def to_channels(
    stored: npt.NDArray[np.generic],
    channels: int,
    value_range: tuple[float, float] | None,
    cut: Cut | None = None,
) -> npt.NDArray[np.uint8]:
    """An array ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` to uint8 ``[H, W, C]``, or the wanted part of it.

    Raises:
        DecodeError: wrong_channels, when no axis has that many.
    """
    if stored.ndim == 2:
        stored = stored[..., None]
    if stored.ndim != 3:
        raise DecodeError(Reason.UNSUPPORTED, f"an array of shape {stored.shape}")
    own = stored.shape[2]
    if own != channels:
        if stored.shape[0] == channels:
            stored = np.moveaxis(stored, 0, 2)
        elif (own, channels) not in ((1, 3), (3, 1)):
            raise DecodeError(
                Reason.WRONG_CHANNELS,
                f"shape {stored.shape}; {channels} channels are configured: write those that are wanted to files of "
                "their own",
            )
    # What the values mean is read from all of them, what is wanted is repeated or mixed.
    pixels = upright_part(to_uint8(stored, value_range), 1, cut)
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def luminance(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The luminance [H, W] of an image [H, W, C] with one or three channels."""
    import cv2

    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels[..., 0])
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
