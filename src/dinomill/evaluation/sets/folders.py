"""What sets in folders have in common."""

from __future__ import annotations

from pathlib import Path

from dinomill.errors import InputError
from dinomill.evaluation.sets.config import SetConfig


def require_folder(config: SetConfig) -> Path:
    """The folder of a set.

    Raises:
        InputError: When it is somewhere else than on this machine.
    """
    if "://" in config.labelled:
        raise InputError(
            f"The labelled images {config.labelled} are not in a folder of this machine.",
            action="copy them, and name the folder in the set's `labelled`",
        )
    return Path(config.labelled)
