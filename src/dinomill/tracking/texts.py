"""Settings as MLflow keeps them: flat, as text, without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dinomill.addresses import redact

# A limit of MLflow's REST interface: what is longer is cut.
_VALUE_LENGTH = 6000

# `num_register_tokens` is no secret; `hub.token` is.
_SECRET = re.compile(r"password|secret|credential|api_?key|access_?key|(^|[._])token$", re.IGNORECASE)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def is_secret(name: str) -> bool:
    """Whether a setting is named like a secret."""
    return _SECRET.search(name) is not None


def without_secrets(values: Any) -> Any:
    """Nested mappings and lists as plain ones, without what is named like a secret or is an address's password."""
    if isinstance(values, Mapping):
        return {str(key): without_secrets(value) for key, value in values.items() if not is_secret(str(key))}
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [without_secrets(value) for value in values]
    return values if values is None or isinstance(values, bool | int | float) else redact(str(values))


def as_text(value: Any) -> str:
    """A value as MLflow keeps it: a list with commas, no password of an address, cut at the interface's limit."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(str(item) for item in value)
    return redact(str(value))[:_VALUE_LENGTH]
