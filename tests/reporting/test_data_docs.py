"""Data Docs beside the report: equal findings, equal bytes, and every page still led to."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from dinomill.quality.gate import GateConfig, check_table
from dinomill.quality.suites import expectations
from dinomill.reporting.data_docs import copy_docs


def test_the_same_check_gives_the_same_copy_at_another_time(tmp_path: Path) -> None:
    rows = pd.DataFrame({"side": [3, 4, 5]})
    copies = []
    for number in ("first", "second"):
        work, folder = tmp_path / number / "work", tmp_path / number
        work.mkdir(parents=True)
        suite = [expectations().ExpectColumnValuesToBeBetween(column="side", min_value=1)]
        check_table("sides", rows, suite, GateConfig(), folder=folder, work=work, docs=work, index=())
        copy_docs(work / "docs", folder / "copy")
        copies.append({path.relative_to(folder / "copy"): path.read_bytes() for path in (folder / "copy").rglob("*.*")})
    assert copies[0] == copies[1]
    page = next(path for path in copies[0] if "validations" in path.parts and path.suffix == ".html")
    index = unquote(copies[0][Path("index.html")].decode())
    assert page.as_posix() in index
    assert b"amazonaws" not in copies[0][page]
