"""The curated images that packaging takes: for the trial, for the choice of a backend, for an index."""

from __future__ import annotations

from dinomill.images.sampled import sample_images, sample_rows

__all__ = ["sample_images", "sample_rows"]
