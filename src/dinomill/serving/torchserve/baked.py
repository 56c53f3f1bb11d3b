"""What an archive says of its own answers, for the server that runs it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import yaml

ANSWER_BYTES = "answer_bytes"


def answer_bytes(archive: Path) -> int:
    """Bytes of the largest answer to one image that the archive gives; 0 where it does not say that."""
    try:
        with zipfile.ZipFile(archive) as file:
            return int(yaml.safe_load(file.read("model-config.yaml"))["handler"].get(ANSWER_BYTES, 0))
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        return 0  # whoever loads it says what is wrong with it
