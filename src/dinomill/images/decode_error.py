"""Why a file is no usable image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import StrEnum
from typing import ParamSpec, TypeVar

from dinomill.errors import InputError

NO_MEMORY = "there is not enough memory to decode it"
_CV_NO_MEMORY = -4  # StsNoMem of OpenCV, which has no exception of its own for it

P = ParamSpec("P")
R = TypeVar("R")


class Reason(StrEnum):
    """Why a file is no usable image: short and countable, for ledgers."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    DECOMPRESSION_BOMB = "decompression_bomb"
    WRONG_CHANNELS = "wrong_channels"
    UNSUPPORTED = "unsupported"


class DecodeError(InputError):
    """A file that cannot become pixels.

    Args:
        reason: The countable reason.
        detail: For people: the decoder's message, or a figure against its limit.
        kind: Of what it is, where that is known: HEIC.
    """

    def __init__(self, reason: Reason, detail: str, kind: str = "") -> None:
        self.reason = reason
        self.detail = detail
        self.kind = kind
        super().__init__(f"The image cannot be used ({self.countable}): {detail}")

    @property
    def countable(self) -> str:
        """The reason with the kind, for ledgers: ``truncated``, ``unsupported:HEIC``."""
        return f"{self.reason}:{self.kind}" if self.kind else str(self.reason)

    def __reduce__(self) -> tuple[object, ...]:
        return DecodeError, (self.reason, self.detail, self.kind)


def memory_is_named(function: Callable[P, R]) -> Callable[P, R]:
    """What a picture needs that the machine does not have is a `DecodeError`: of this picture, not of its batch."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except MemoryError:
            raise DecodeError(Reason.DECOMPRESSION_BOMB, NO_MEMORY) from None
        except Exception as error:
            if type(error).__module__ == "cv2" and getattr(error, "code", None) == _CV_NO_MEMORY:
                raise DecodeError(Reason.DECOMPRESSION_BOMB, NO_MEMORY) from None
            raise

    return checked
