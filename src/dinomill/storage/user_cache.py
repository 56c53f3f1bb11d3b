"""The user's cache: what is fetched or made once and can be had again at any time.

$XDG_CACHE_HOME/dinomill/<name>/    ~/.cache where the variable is not an absolute path (XDG Base Directory, 0.8)
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "XDG_CACHE_HOME"


def told() -> str | None:
    """The folder that the variable names; None where it names none: a relative path would be another one everywhere."""
    value = os.environ.get(VARIABLE, "")
    return value if value.startswith("/") else None


def user_cache(name: str) -> Path:
    """The folder of one kind of what is kept; it need not be there."""
    return Path(told() or Path.home() / ".cache") / "dinomill" / name
