"""Why a file is no usable image."""

from __future__ import annotations

from enum import StrEnum

from dinomill.errors import InputError


class Reason(StrEnum):
    """Why a file is no usable image: short and countable, for ledgers."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_SMALL = "too_small"
    DECOMPRESSION_BOMB = "decompression_bomb"
    WRONG_CHANNELS = "wrong_channels"
    UNSUPPORTED = "unsupported"


class DecodeError(InputError):
    """A file that cannot become pixels.

    Args:
        reason: The countable reason.
        detail: For people: the decoder's message, or a figure against its limit.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"The image cannot be used ({reason}): {detail}")

    def __reduce__(self) -> tuple[object, ...]:
        return DecodeError, (self.reason, self.detail)
