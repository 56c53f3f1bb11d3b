"""Which parts of the code a stage uses, read from the import statements without running anything."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from dinomill.commands.failures import not_python

PACKAGE = "dinomill"


def code_of(stage: str, root: Path, named: Iterable[str] = ()) -> list[Path]:
    """The files and folders of this project that a stage's result depends on, relative to ``root``, sorted.

    A room (a folder of modules) that is used whole is named as such, and so are the stage's own; of any other the
    modules that are used, and what lies beside them that is no module. Imports inside functions count too: heavy
    packages are imported there. A module that is named in a string is no import: whoever runs one by its name imports
    it as well.

    Args:
        stage: Its name.
        root: The project's folder.
        named: Modules, or names within modules, that the stage uses without importing them: its catalog's classes.
    """
    start = [module_name(path, root) for path in sorted((root / "pipelines" / stage).rglob("*.py"))]
    start += [module for name in named if (module := _module_of(name, root))]
    own = {root / "pipelines" / stage, root / "src" / PACKAGE / stage}
    # The stage's own room is named whole, and with it goes what any module of it imports.
    start += [module_name(path, root) for path in sorted((root / "src" / PACKAGE / stage).rglob("*.py"))]
    used = _reached(start, root)
    return sorted(path.relative_to(root) for path in _rooms(used, root, own))


def _reached(start: list[str], root: Path) -> set[Path]:
    """The files of some modules and of all that they import, and they in turn; without those that do nothing."""
    seen: set[str] = set()
    waiting, used = list(start), set()
    while waiting:
        module = waiting.pop()
        # The package's own __init__ is imported by everything and decides nothing.
        if module in seen or module == PACKAGE:
            continue
        seen.add(module)
        path = module_path(module, root)
        if path is not None:
            waiting.extend(_imported(path, module, root))
            if not _does_nothing(path):
                used.add(path)
    return used


def _rooms(used: set[Path], root: Path, own: set[Path]) -> Iterator[Path]:
    """Files that are used, put together to the folders that are used whole."""
    top = {root / "src" / PACKAGE, root / "pipelines"}
    whole = {folder for folder in own if folder.is_dir()}
    for folder in {path.parent for path in used} - top:
        while folder.parent not in top and _is_whole(folder.parent, used):
            folder = folder.parent
        if _is_whole(folder, used):
            whole.add(folder)
    partly = set()
    for path in used:
        if whole.isdisjoint(path.parents):
            partly.add(path)
            if path.parent not in top:
                partly.update(_beside(path.parent))
    yield from {folder for folder in whole if whole.isdisjoint(folder.parents)} | partly


def _is_whole(folder: Path, used: set[Path]) -> bool:
    return all(path in used or _does_nothing(path) for path in folder.rglob("*.py"))


def _beside(room: Path) -> Iterator[Path]:
    """What lies in a room and is neither a module nor a room of its own: templates, tables."""
    for path in room.iterdir():
        module = path.suffix == ".py" or (path / "__init__.py").is_file()
        if not module and path.name != "__pycache__":
            yield path


@cache
def _does_nothing(path: Path) -> bool:
    """Whether a package's ``__init__`` says only what the package is for."""
    if path.name != "__init__.py":
        return False
    body = _parsed(path).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def _parsed(path: Path) -> ast.Module:
    """The tree of a file.

    Raises:
        InputError: When it is no Python; names file and line.
    """
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:  # a zero byte is a ValueError
        raise not_python(path, error) from None


def _module_of(name: str, root: Path) -> str | None:
    """The module that a dotted name is or lies in; None for what is not this project's."""
    parts = name.split(".")
    if parts[0] != PACKAGE or not all(part.isidentifier() for part in parts):
        return None
    found = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((module for module in found if module_path(module, root)), None)


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


@cache
def _imported(path: Path, module: str, root: Path) -> tuple[str, ...]:
    """The modules of this project that a module imports; asked by every stage that uses it."""
    return tuple(dict.fromkeys(_found(path, module, root)))


def _found(path: Path, module: str, root: Path) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _statements(_parsed(path)):
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
