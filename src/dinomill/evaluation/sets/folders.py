"""What sets in folders have in common: where they lie, and what they say of themselves.

<root>/set.json    may be left out: keys of a set's configuration that belong to its files: {"scale": 0.001}
"""

from __future__ import annotations

import json
from pathlib import Path

from dinomill.errors import InputError
from dinomill.evaluation.sets.config import SetConfig

SET_NAME = "set.json"
_KEYS = ("targets", "ignored", "scale", "depths", "crop", "unit")


def require_folder(config: SetConfig) -> Path:
    """The folder of a set, or its list.

    Raises:
        InputError: When it is somewhere else than on this machine.
    """
    if "://" in config.labelled:
        raise InputError(
            f"The labelled images {config.labelled} are not in a folder of this machine.",
            action="copy them, and name the folder in the set's `labelled`",
        )
    return Path(config.labelled)


def described(config: SetConfig, root: Path) -> SetConfig:
    """The configuration with what the folder says of itself; what the configuration names stands before it.

    Raises:
        InputError: When the file is no JSON object, or has other keys.
        ConfigError: When a value of it is wrong.
    """
    path = root / SET_NAME
    if not path.is_file():
        return config
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON.", found=str(error), action="correct the file, or remove it"
        ) from None
    unknown = sorted(set(told) - set(_KEYS)) if isinstance(told, dict) else ["no object"]
    if unknown:
        raise InputError(
            f"{path} cannot be used.",
            found=", ".join(unknown),
            expected=f"some of {', '.join(_KEYS)}",
            action="correct the file, or remove it",
        )
    named = {name: getattr(config, name) for name in config.model_fields_set}
    values = {**told, **SetConfig(**named).model_dump(mode="json", include=set(named))}
    return SetConfig.parse(values, where=str(path))
