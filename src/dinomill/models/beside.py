"""The note beside an exported file of weights: what names and shapes of tensors cannot say.

<file>.json    {"format", "model": the configuration, "preprocessing", "pooling", "licence", "origin", "made_from", …}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinomill.errors import InputError

NOTE_FORMAT = "dinomill-export-1"


def note_of(file: Path) -> Path:
    """Where the note of a file lies."""
    return file.with_name(f"{file.name}.json")


def read_note(file: Path) -> Mapping[str, Any]:
    """What the note beside a file says; empty when there is none, or it is somebody else's.

    Raises:
        InputError: When it is not JSON.
    """
    path = note_of(file)
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON.", found=str(error), action="export the model again") from None
    return told if isinstance(told, dict) and told.get("format") == NOTE_FORMAT else {}
