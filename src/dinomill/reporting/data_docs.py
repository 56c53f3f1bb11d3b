"""Data Docs of a quality gate, copied so that the same findings give the same bytes, whenever they were made.

Great Expectations writes the time of a check into its pages and into their paths, draws random names for what it
made, and loads a picture from its maker's server that counts who looks.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from dinomill.storage.atomic import storage_errors

_TIMES = (
    (re.compile(r"\d{8}T\d{6}\.\d{6}Z"), "check"),  # folders, and links to them
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z|\+00:00)?"), "see MLflow"),
    (re.compile(r"('_run_time_sort': )[\d.]+"), r"\g<1>0"),
)
_COUNTED = re.compile(r"https?://[\w.-]*great-expectations-web-assets[^\"']*")
_NAMES = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def copy_docs(source: Path, target: Path) -> None:
    """Copy Data Docs without times and random names.

    Raises:
        StorageError: When the target cannot be written.
    """
    with storage_errors(target):
        shutil.rmtree(target, ignore_errors=True)
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            copy = target / _timeless(path.relative_to(source).as_posix())
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".html":
                copy.write_text(_same(path.read_text(encoding="utf-8")), encoding="utf-8")
            else:
                shutil.copyfile(path, copy)


def _same(page: str) -> str:
    names: dict[str, str] = {}
    page = _NAMES.sub(lambda found: names.setdefault(found[0], f"name-{len(names)}"), _COUNTED.sub("", page))
    return _timeless(page)


def _timeless(text: str) -> str:
    for pattern, instead in _TIMES:
        text = pattern.sub(instead, text)
    return text
