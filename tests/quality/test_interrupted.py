"""What a killed process left of Great Expectations' folder must not stop every later run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import great_expectations as gx
import pandas as pd
import pytest

from dinomill.errors import StorageError
from dinomill.quality.gate import GateConfig, check_table

ROWS = pd.DataFrame({"value": [1, 2, 3]})


def _check(root: Path) -> int:
    suite = [gx.expectations.ExpectColumnValuesToNotBeNull(column="value")]
    return check_table("values", ROWS, suite, GateConfig(docs=False), folder=root / "out", work=root / "work").rows


def test_a_folder_cut_off_while_it_was_made_is_made_anew(tmp_path: Path) -> None:
    assert _check(tmp_path) == 3
    made = sorted(
        path for path in (tmp_path / "work/gx").rglob("*") if path.is_file() and path.suffix in (".yml", ".json")
    )
    assert made
    for path in made:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    assert _check(tmp_path) == 3


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can make a small disk")
def test_a_full_disk_beneath_the_library_is_said(tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "work"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        with pytest.raises(StorageError, match=r"Cannot write .*work/gx: No space left on device"):
            _check(tmp_path)
    finally:
        subprocess.run(["umount", str(small)], check=True)
