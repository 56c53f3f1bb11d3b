"""Reading one file of configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinomill.errors import ConfigError


def read_mapping(path: Path) -> dict[str, Any]:
    """What a YAML or JSON file says, ``${…}`` as it stands; an empty file says nothing.

    Raises:
        ConfigError: When it cannot be read, is not YAML, or is no mapping; names file, line and column.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        read = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(
            f"{path.as_posix()} is not valid YAML.",
            found=f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}" if mark else str(error.problem),
            action="correct that line",
        ) from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path.as_posix()} is not valid YAML.", found=" ".join(str(error).split())) from None
    except OSError as error:
        raise ConfigError(f"{path.as_posix()} cannot be read.", found=error.strerror or str(error)) from None
    if isinstance(read, DictConfig) and len(read) == 1 and _is_a_word(path):
        found = f"the text {next(iter(read))!r}"
        raise ConfigError(f"{path.as_posix()} is not a mapping.", found=found, expected="`key: value` lines")
    if not isinstance(read, DictConfig):
        raise ConfigError(f"{path.as_posix()} is not a mapping.", found=_kind(read), expected="`key: value` lines")
    values = OmegaConf.to_container(read, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _is_a_word(path: Path) -> bool:
    """Whether a file is a mere text: OmegaConf takes it for a key without a value."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return path.suffix != ".json" and isinstance(
        yaml.compose(path.read_text(encoding="utf-8"), loader), yaml.ScalarNode
    )


def _kind(read: object) -> str:
    return "a list" if "List" in type(read).__name__ else type(read).__name__
