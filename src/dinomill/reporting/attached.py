"""Pages that other stages made, copied beside the report, so that the report's folder can be sent around whole.

<output>/curation.html                   what curation did, picture by picture
<output>/data_docs/<gate>/index.html     what Great Expectations checked
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dinomill.handles import DatasetHandle
from dinomill.reporting.data_docs import copy_docs
from dinomill.storage.atomic import atomic_file

PAGE = "curation.html"  # what curation.report calls it; that module would bring half of curation with it


@dataclass(frozen=True)
class Attached:
    """Links from the report, relative to it; empty where there is no such page."""

    curation: str
    docs: tuple[tuple[str, str], ...]  # the gate's name, the link


def attach_pages(curated: DatasetHandle, quality: Mapping[str, Path], output: Path) -> Attached:
    """Copy the pages that are there.

    Args:
        curated: The dataset; its page lies in its folder.
        quality: The folders of the quality gates' results, by name.
        output: The report's folder.

    Raises:
        StorageError: When the report's folder cannot be written.
    """
    made = curated.folder / PAGE
    if made.is_file():
        with atomic_file(output / PAGE) as temporary:
            shutil.copyfile(made, temporary)
    docs = []
    for name, folder in quality.items():
        if not (folder / "docs" / "index.html").is_file():
            continue
        copy_docs(folder / "docs", output / "data_docs" / name)
        docs.append((name.replace("_", " "), f"data_docs/{name}/index.html"))
    return Attached(PAGE if made.is_file() else "", tuple(docs))
