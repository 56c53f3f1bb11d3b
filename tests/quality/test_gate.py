"""A table held against a suite: what is written, what is said, and what stops."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dinomill.quality.gate import GateConfig, QualityError, check_table
from dinomill.quality.suites import expectations, summary_suite


def _table(count: int, broken: int = 0) -> pd.DataFrame:
    size = [10] * (count - broken) + [-1] * broken
    return pd.DataFrame({"source": "pool", "path": [f"{number}.png" for number in range(count)], "size": size})


def _suite() -> list[Any]:
    return [expectations().ExpectColumnValuesToBeBetween(column="size", min_value=0)]


def _places(root: Path) -> dict[str, Path]:
    return {"folder": root / "q", "work": root / "w"}


def test_a_passed_gate_says_what_was_looked_at(tmp_path: Path) -> None:
    handle = check_table("sizes", _table(20), _suite(), GateConfig(), **_places(tmp_path))
    line = "passed: size: column values to be between (min_value 0.0)"
    assert (handle.suite, handle.rows, handle.total_rows, handle.checks) == ("sizes", 20, 20, (line,))
    assert json.loads((tmp_path / "q" / "sizes.json").read_text()) == {
        "suite": "sizes", "rows": 20, "total_rows": 20, "checks": [line],
    }  # fmt: skip
    assert handle.docs == tmp_path / "q" / "docs" / "index.html" and handle.docs.is_file()
    handle.save()
    assert type(handle).load(tmp_path / "q") == handle


def test_a_failed_one_names_five_rows_and_the_number_of_the_rest(tmp_path: Path) -> None:
    with pytest.raises(QualityError, match="'sizes' does not meet 1 of its 1") as caught:
        check_table("sizes", _table(20, broken=8), _suite(), GateConfig(docs=False), **_places(tmp_path))
    text = str(caught.value)
    assert all(f"pool/{number}.png: size=-1" in text for number in range(12, 17)) and "pool/17.png" not in text
    assert "and 3 more" in text and str(tmp_path / "q" / "sizes.json") in text
    assert "FAILED" in (tmp_path / "q" / "sizes.json").read_text()


def test_what_is_no_rows_fault_is_told_by_what_was_found(tmp_path: Path) -> None:
    suite = [expectations().ExpectTableRowCountToBeBetween(min_value=5)]
    with pytest.raises(QualityError, match="the table: table row count to be between") as caught:
        check_table("sizes", _table(3), suite, GateConfig(docs=False), **_places(tmp_path))
    assert "observed: 3" in str(caught.value)


def test_a_long_table_is_sampled_and_the_sample_does_not_change(tmp_path: Path) -> None:
    config = GateConfig(docs=False, sample_above=50)
    handle = check_table("sizes", _table(1000), _suite(), config, **_places(tmp_path))
    assert (handle.rows, handle.total_rows) == (50, 1000)
    again = check_table("sizes", _table(1000), _suite(), config, **_places(tmp_path / "again"))
    assert again.made_of == handle.made_of
    told = check_table("sizes", _table(40), _suite(), config, **_places(tmp_path), total=7000)
    assert (told.rows, told.total_rows) == (40, 7000)


def test_without_docs_none_are_left_and_the_library_stays_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("great_expectations")
    level = logger.level
    handle = check_table("sizes", _table(3), _suite(), GateConfig(docs=False), **_places(tmp_path))
    assert handle.docs is None and not (tmp_path / "q" / "docs").exists()
    assert logger.level == level
    assert not [record for record in caplog.records if record.name.startswith("great_expectations")]


def test_one_gate_after_another_keeps_what_the_first_found(tmp_path: Path) -> None:
    for name in ("first", "second"):
        check_table(name, _table(3), _suite(), GateConfig(), **_places(tmp_path))
    assert {path.name for path in (tmp_path / "q").glob("*.json")} == {"first.json", "second.json"}
    index = (tmp_path / "q" / "docs" / "index.html").read_text()
    assert "first" in index and "second" in index


@pytest.mark.parametrize(("broken", "fine"), [([0, 0], True), ([0, 2], False), ([], False)])
def test_a_summary_has_no_broken_rule_and_at_least_one(tmp_path: Path, broken: list[int], fine: bool) -> None:
    rows = pd.DataFrame({"rule": [f"rule {n}" for n in range(len(broken))], "broken": broken, "examples": "pool/a"})
    places = _places(tmp_path)
    if fine:
        check_table("summary", rows, summary_suite(), GateConfig(docs=False), **places, index=("rule", "examples"))
        return
    with pytest.raises(QualityError) as caught:
        check_table("summary", rows, summary_suite(), GateConfig(docs=False), **places, index=("rule", "examples"))
    assert ("rule 1/pool/a: broken=2" if broken else "row count") in str(caught.value)
