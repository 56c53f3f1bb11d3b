"""What a file's header says of its picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says. Sizes are in pixels, after the rotation that EXIF asks for."""

    format: str
    width: int
    height: int
    mode: str
    frames: int

    @property
    def is_deep(self) -> bool:
        """Whether it holds more than 8 bits a channel, or numbers of another kind."""
        return self.mode.startswith(("I", "F", "uint16", "uint32", "uint64", "int", "float"))
