"""Why an image that was decoded has no embedding."""

from __future__ import annotations

from dinomill.errors import InputError


class NotFinite(InputError):
    """An embedding that is no number: the same image gives it again."""


class NetworkFailed(InputError):
    """The network broke off, for want of memory above all: the same image may have an embedding next time."""


def not_finite(address: str, images: int) -> NotFinite:
    """Such an embedding is like nothing, not even itself, and JSON has no word for it."""
    return NotFinite(
        f"{address} gives embeddings that are no numbers (NaN or infinite), of {images} image{'s' * (images > 1)}.",
        action="try dtype float32 where it was half; weights that do so for every image are damaged or diverged",
    )


def network_failed(error: Exception) -> InputError:
    """What is said of an image with which the network failed; what it refused, it has said itself."""
    if isinstance(error, InputError):
        return error
    return NetworkFailed("The network failed with this image.", found=type(error).__name__)
