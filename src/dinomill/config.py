"""The base of every configuration model: frozen, strict, and helpful about a wrong key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from dinomill.errors import ConfigError
from dinomill.storage.hashing import hash_json

UNKNOWN_KEY = "unknown_key"
_TAG = "kind="
_ALTERNATIVE = re.compile(r"^(function-\w+|literal|list|tuple|dict|set|constrained-\w+|lax-or-strict|nullable)\[")
_NO_MAPPING = re.compile(r"Input should be a valid dictionary or instance of \w+")


def tag(kind: str) -> str:
    """The tag of a configuration in a union that ``kind`` tells apart; messages leave it out of the key."""
    return f"{_TAG}{kind}"


class Config(BaseModel):
    """A frozen configuration that refuses unknown keys and names the likely one.

    Fields carry their unit or range and a one-line description. Subclasses live next to the code they configure.
    """

    # NaN passes every bound (no comparison with it is true), and neither it nor infinity can be written as JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_likely_key(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        known = list(cls.model_fields)
        unknown = [key for key in values if key not in known] if isinstance(values, Mapping) else []
        if not unknown:
            return handler(values)
        try:
            return handler(values)
        except ValidationError as error:  # what a model says of the whole explains the key, where it has moved
            if any(one["loc"] == () for one in error.errors(include_url=False)):
                raise
        wrong = [_unknown(str(key), known, values) for key in unknown]
        try:
            handler({key: value for key, value in values.items() if key in known})
        except ValidationError as error:  # whoever corrects the key should not meet the next fault only then
            wrong += [_again(one) for one in error.errors(include_url=False) if one["type"] != "missing"]
        raise ValidationError.from_exception_data(cls.__name__, wrong)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str | Callable[[str], str], prefix: str = "") -> Self:
        """Validate a plain mapping.

        Args:
            values: The mapping, as read from YAML or JSON.
            where: What the mapping was read from, for the message: ``conf/base/curation/parameters.yml``. When it was
                put together from several files, a function from a wrong key, dotted, to its file.
            prefix: The dotted key that the mapping itself has, to name its keys in full.

        Raises:
            ConfigError: With one line for each wrong key: its dotted path, what was found and what was expected.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise config_error(error, where=where, prefix=prefix) from None

    def content_hash(self) -> str:
        """The sha256 of the configuration's canonical JSON: equal configurations have equal hashes."""
        return hash_json(self.model_dump(mode="json"))


def _unknown(key: str, known: list[str], values: Any) -> InitErrorDetails:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
    # A kind of its own, so that whoever shows it can say where that key was written.
    said = {"key": key, "shown": repr(key), "hint": hint}
    return InitErrorDetails(type=PydanticCustomError(UNKNOWN_KEY, "unknown key {shown}; {hint}", said), input=values)


def _again(found: ErrorDetails) -> InitErrorDetails:
    """An error as it was, to stand beside others."""
    said = {"said": found["msg"], **found.get("ctx", {})}
    kind = PydanticCustomError(found["type"], "{said}", said)
    return InitErrorDetails(type=kind, loc=found["loc"], input=found["input"])


def config_error(error: ValidationError, *, where: str | Callable[[str], str], prefix: str = "") -> ConfigError:
    """Turn pydantic's error into one line a wrong key, with its dotted path, under the file that it stands in."""
    lines: dict[str, list[str]] = {}
    items = error.errors(include_url=False)
    # Of a mapping that may be a word instead it says nothing that it is not the word.
    said = [one for one in items if not (one["type"] == "literal_error" and isinstance(one["input"], Mapping))]
    for item in said or items:
        # Pydantic names the alternatives that it tried, too: `function-after[…]`, `literal[…]`.
        parts = [part for part in map(str, item["loc"]) if not part.startswith(_TAG) and not _ALTERNATIVE.search(part)]
        path = ".".join([*([prefix] if prefix else []), *parts])
        message = _NO_MAPPING.sub("Input should be a mapping of keys", item["msg"].removeprefix("Value error, "))
        # For a missing or misspelt key the input is the whole mapping, which says nothing.
        shown = "" if isinstance(item["input"], Mapping) else f" (found {item['input']!r})"
        wrong = f"{path}.{item['ctx']['key']}".lstrip(".") if item["type"] == UNKNOWN_KEY else path
        file = where if isinstance(where, str) else where(wrong)
        lines.setdefault(file, []).append(f"    {path or '(top level)'}: {message}{shown}")
    problem = (line for file, keys in lines.items() for line in (f"The configuration in {file} is not valid:", *keys))
    return ConfigError("\n".join(problem), action=_what_to_do(list(lines)))


def _what_to_do(files: list[str]) -> str:
    if len(files) == 1 and files[0].startswith("--"):
        return f"correct the value given with {files[0]}"
    return "correct the key in that file, or the value given with --params" if len(files) == 1 else "correct these keys"
