"""Verbs that are a stage or speak of what the stages left: `dinomill sample`, `dinomill summary`."""

from __future__ import annotations
