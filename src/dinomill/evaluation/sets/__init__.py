"""Labelled sets: what lies on disk of each kind, read into paths and targets. Kinds are listed in ``base``."""
