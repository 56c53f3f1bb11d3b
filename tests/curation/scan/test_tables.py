"""The scan's table, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinomill.curation.handles import ScanHandle
from dinomill.curation.scan.tables import read_files
from dinomill.errors import InputError


def test_only_the_columns_that_are_asked_for_are_read(curated: Any) -> None:
    scan = ScanHandle.load(curated[0].folder.parent / "scan")
    assert read_files(scan, ["path", "group"]).column_names == ["path", "group"]
    assert len(read_files(scan, ["path"])) == sum(scan.groups.values())


def test_a_table_that_is_gone_is_named(curated: Any, tmp_path: Path) -> None:
    scan = ScanHandle.load(curated[0].folder.parent / "scan").model_copy(update={"files": tmp_path / "gone.parquet"})
    with pytest.raises(InputError, match=r"There is no .*gone\.parquet") as caught:
        read_files(scan)
    assert "run curation again" in str(caught.value)
