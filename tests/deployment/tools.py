"""Programs of the dependency group `containers`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest


def tool(*names: str) -> str:
    """One of them, beside Python or on the path; whoever needs one that is not there is left out."""
    for name in names:
        beside = Path(sys.executable).with_name(name)
        found = str(beside) if beside.is_file() else shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"{names[0]} is not installed: pip install --group containers")
