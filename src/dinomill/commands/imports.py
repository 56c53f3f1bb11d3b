"""Which parts of the code a stage uses, read from the import statements without running anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "dinomill"


def code_of(stage: str, root: Path) -> list[Path]:
    """The folders and files of this project that a stage's result depends on, relative to ``root``, sorted.

    A module counts with the whole area that it lies in (``src/dinomill/images``), a module directly in the package as
    a file (``src/dinomill/handles.py``). Imports inside functions count too: heavy packages are imported there.
    """
    start = [module_name(path, root) for path in sorted((root / "pipelines" / stage).rglob("*.py"))]
    seen: set[str] = set()
    while start:
        module = start.pop()
        # The package's own __init__ is imported by everything and decides nothing.
        if module not in seen and module != PACKAGE:
            seen.add(module)
            path = module_path(module, root)
            if path is not None:
                start.extend(_imported(path, module, root))
    areas = {_area(path, root) for module in seen if (path := module_path(module, root))}
    return sorted(areas - {Path("pipelines/__init__.py")})


def module_path(module: str, root: Path) -> Path | None:
    """The file of a module of this project, or None when there is no such module (a name within one, perhaps)."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return None
    folder = root / "pipelines" if parts[1:2] == ["pipelines"] else root / "src" / PACKAGE
    base = folder.joinpath(*parts[2 if parts[1:2] == ["pipelines"] else 1 :])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a file under ``pipelines/`` or ``src/dinomill/``."""
    relative = path.relative_to(root).with_suffix("")
    parts = relative.parts[1:] if relative.parts[0] == "src" else (PACKAGE, *relative.parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _area(path: Path, root: Path) -> Path:
    relative = path.relative_to(root)
    depth = 2 if relative.parts[0] == "pipelines" else 3
    return Path(*relative.parts[:depth])


@cache
def _imported(path: Path, module: str, root: Path) -> tuple[str, ...]:
    """The modules of this project that a module imports; asked by every stage that uses it."""
    return tuple(dict.fromkeys(_found(path, module, root)))


def _found(path: Path, module: str, root: Path) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if module_path(name, root) is not None:
                yield name
                yield from _packages_above(name)


def _packages_above(name: str) -> Iterator[str]:
    # Importing a.b.c runs a.b's __init__ as well.
    parts = name.split(".")
    for length in range(2, len(parts)):
        yield ".".join(parts[:length])


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Every statement, however deep; expressions, most of a tree, hold no import."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, name, ())
            waiting.extend(below if isinstance(below, list) else ())  # a lambda's body is an expression
        if isinstance(node, ast.stmt):
            yield node
