"""What a server has to have installed for a package: read from the imports of the code that the package carries."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions, version
from pathlib import Path

from dinomill.serving.torchserve.carried import imported_modules

_OURS = "dinomill"
# Imported by TorchServe's own worker, and by tifffile: without it compressed TIFFs are not read, or without a bound.
_SERVER = ("torchserve", "psutil", "PyYAML", "imagecodecs")
# Writing Parquet is for the stages, and counting a program's weights for people; a server does neither.
_NOT_NEEDED = {"pyarrow", "onnx"}


def archive_requirements(archive: Path) -> list[str]:
    """The third-party packages that an archive's code imports, pinned to the versions installed here.

    Imports inside functions count too: a server should not find out at the first TIFF that a reader is missing.

    Returns:
        Lines of a requirements file, sorted.
    """
    with zipfile.ZipFile(archive) as file:
        sources = [file.read(name).decode() for name in file.namelist() if name.endswith(".py")]
    return pinned_requirements(sources, _SERVER)


def pinned_requirements(sources: Iterable[str], server: Iterable[str]) -> list[str]:
    """The third-party packages that Python sources import, pinned to the versions installed here.

    Args:
        sources: Texts of modules.
        server: What is needed besides.

    Returns:
        Lines of a requirements file, sorted.
    """
    known = packages_distributions()
    names = set(server)
    for module in _imported(sources):
        if module in known:
            # Several distributions can fill one namespace; the one of the same name, else the first by name.
            found = sorted(known[module])
            names.add(module if module in found else found[0])
    return sorted(f"{name}=={version(name).split('+')[0]}" for name in names)


def _imported(sources: Iterable[str]) -> set[str]:
    """Top-level names of all modules that are imported and that are not ours or Python's."""
    modules = {imported.split(".")[0] for text in sources for imported in imported_modules(text)}
    return modules - set(sys.stdlib_module_names) - {_OURS} - _NOT_NEEDED
