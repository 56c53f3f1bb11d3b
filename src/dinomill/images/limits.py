"""What whoever serves a model bounds where nobody says otherwise."""

MAX_MEGAPIXELS = 40.0
"""Largest image in millions of pixels of colour; others count by the bytes of their values, at 4 a pixel."""
