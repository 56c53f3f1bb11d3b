"""dinomill: raw images in, a served vision backbone out."""

from __future__ import annotations

from dinomill import telemetry

__version__ = "0.1.0"

telemetry.switch_off()
