"""The list of what decides a pixel is whole: a module that decoding came to use must not be forgotten."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from dinomill.images import made_of

# They name things, and touch no pixel.
_ASIDE = {"dinomill.images.decode_error", "dinomill.images.made_of", "dinomill.images"}


def _imports(module: str) -> set[str]:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    found = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.startswith("dinomill.images") and _exists(name)}


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_all_that_decoding_imports_of_images_is_listed() -> None:
    seen: set[str] = set()
    waiting = {"dinomill.images.decode", "dinomill.images.tiles"}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting |= _imports(module) - seen
    assert seen - _ASIDE <= set(made_of.CODE)
