"""Paths as somebody typed them: what the system cannot look for at all is a path that is not there."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(address: str | Path) -> Path:
    """A path below the home that it names; as it is where there is no such user."""
    try:
        return Path(address).expanduser()
    except RuntimeError:
        return Path(address)


def is_there(path: str | Path) -> bool:
    """Whether something lies at a path; nothing does at one that is too long, or that holds a null byte."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises for a name that is too long)
