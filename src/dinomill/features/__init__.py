"""One door to every network that turns images into features, whatever it is and wherever it lies.

``describe(address)`` says what an address holds without building a network; ``open(address)`` builds it. An address is
resolved once. What is listed here is imported when it is first asked for: torch takes seconds to load.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinomill.features.base import Description, Features, Tokens
    from dinomill.features.door import describe, open  # noqa: A004 (called as features.open)

_HOMES = {"base": ("Description", "Features", "Tokens"), "door": ("describe", "open")}

__all__ = ["Description", "Features", "Tokens", "describe", "open"]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"dinomill.features.{home}"), name)
    raise AttributeError(f"module 'dinomill.features' has no attribute {name!r}")
