"""The part of the library that a package carries: what its server's code can reach through imports, and no more."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dinomill

_ROOT = Path(dinomill.__file__).parent
HANDLER = _ROOT / "serving" / "torchserve" / "handler.py"
# Prediction needs nothing above these layers. What they import lazily from elsewhere (the model registry, a bucket)
# is for loading by address, and an archive has its weights in it.
_LAYERS = ("serving", "features", "models", "images", "storage", "config", "errors", "arrays", "no_telemetry")
_RUNTIMES = {"onnxruntime": "dinomill.features.onnx", "openvino": "dinomill.features.openvino"}
_NOT_NEEDED = (
    *("dinomill.storage.s3", "dinomill.features.efficientnet", "dinomill.features.pt2", "dinomill.features.graph"),
    "dinomill.serving.backends.measure",
)
_TORCHSERVE = ("dinomill.serving.torchserve",)


def carried_files(
    runtime: str = "eager",
    *,
    entry: Path = HANDLER,
    left_out: tuple[str, ...] = _TORCHSERVE,
) -> list[Path]:
    """The library's files that a server's code reaches: sorted, relative to ``dinomill``'s folder.

    Args:
        runtime: Of the backend in the package.
        entry: Where the server's code begins.
        left_out: Modules that it names and has no need of.
    """
    seen: set[Path] = set()
    waiting = imported_modules(entry.read_text(encoding="utf-8"))
    left_out = (*left_out, *_NOT_NEEDED, *(module for name, module in _RUNTIMES.items() if name != runtime))
    while waiting:
        for path in _files(waiting.pop(), left_out):
            if path not in seen:
                seen.add(path)
                waiting += imported_modules(path.read_text(encoding="utf-8"))
    return sorted(path.relative_to(_ROOT) for path in seen)


def imported_modules(source: str) -> list[str]:
    """Dotted names of everything that a Python source imports, also inside functions; names from modules included."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _files(module: str, left_out: tuple[str, ...]) -> Iterator[Path]:
    """The files that importing a module of ours executes: the packages on the way and the module itself."""
    parts = module.split(".")
    outside = len(parts) > 1 and parts[1] not in _LAYERS
    if parts[0] != "dinomill" or outside or module.startswith(left_out):
        return
    folder = _ROOT.parent
    for part in parts:
        folder = folder / part
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"
        elif (single := folder.with_suffix(".py")).is_file():
            yield single
