"""The base of every configuration model: frozen, strict, and helpful about a wrong key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from dinomill.errors import ConfigError
from dinomill.storage.hashing import hash_json


class Config(BaseModel):
    """A frozen configuration that refuses unknown keys and names the likely one.

    Fields carry their unit or range and a one-line description. Subclasses live next to the code they configure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_likely_key(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        known = list(cls.model_fields)
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
                raise ValueError(f"unknown key {key!r}; {hint}")
        return values

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Validate a plain mapping.

        Args:
            values: The mapping, as read from YAML or JSON.
            where: What the mapping was read from, for the message: ``conf/base/curation/parameters.yml``.

        Raises:
            ConfigError: With one line for each wrong key: its dotted path, what was found and what was expected.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise config_error(error, where=where) from None

    def content_hash(self) -> str:
        """The sha256 of the configuration's canonical JSON: equal configurations have equal hashes."""
        return hash_json(self.model_dump(mode="json"))


def config_error(error: ValidationError, *, where: str) -> ConfigError:
    """Turn pydantic's error into one line a wrong key, with its dotted path."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "(top level)"
        message = item["msg"].removeprefix("Value error, ")
        # For a missing or misspelt key the input is the whole mapping, which says nothing.
        shown = "" if isinstance(item["input"], Mapping) else f" (found {item['input']!r})"
        lines.append(f"{path}: {message}{shown}")
    return ConfigError(
        f"The configuration in {where} is not valid:\n    " + "\n    ".join(lines),
        action="correct the key in that file, or the value given with --params",
    )
