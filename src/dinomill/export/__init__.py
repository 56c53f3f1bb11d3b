"""A backbone in the forms that other programs read, each checked against the model itself and with its note.

from dinomill.export import export

export("models:/dinomill-backbone@champion", "onnx", Path("champion.onnx"))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinomill.export.base import FORMATS, Export, Format
    from dinomill.export.write import export

_HOMES = {"base": ("FORMATS", "Export", "Format"), "write": ("export",)}

__all__ = ["FORMATS", "Export", "Format", "export"]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"dinomill.export.{home}"), name)
    raise AttributeError(f"module 'dinomill.export' has no attribute {name!r}")
