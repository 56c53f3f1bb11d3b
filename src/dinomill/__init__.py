"""dinomill: raw images in, a served vision backbone out."""

from __future__ import annotations

__version__ = "0.1.0"
