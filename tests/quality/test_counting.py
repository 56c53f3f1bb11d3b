"""What is counted over a whole table, and which rows of a long one are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dinomill.quality.counting import Rule, count_broken, count_repeated, sample_numbers, sample_rows
from dinomill.storage.atomic import write_parquet

KEPT = pc.field("fate") == "kept"


def _table(root: Path, *rows: dict[str, Any]) -> Path:
    path = root / "table.parquet"
    given = [{"source": "pool", "path": f"{number}.png", "fate": "kept"} | row for number, row in enumerate(rows)]
    write_parquet(path, pa.Table.from_pylist(given))
    return path


def test_a_sample_is_seeded_in_order_and_without_repeats() -> None:
    sample = sample_numbers(1000, 40)
    assert len(set(sample.tolist())) == 40 and (np.diff(sample) > 0).all()
    assert (sample == sample_numbers(1000, 40)).all()
    assert sample_numbers(40, 40).tolist() == list(range(40))


def test_the_rows_of_a_sample_are_those_of_its_numbers_among_the_rows_that_count(tmp_path: Path) -> None:
    path = _table(tmp_path, *({"number": number, "fate": "kept" if number % 2 else "lost"} for number in range(600)))
    table, total = sample_rows(path, ["number"], 50, KEPT)
    odd = np.arange(1, 600, 2)
    assert total == 300
    assert table["number"].to_pylist() == odd[sample_numbers(300, 50)].tolist()
    assert sample_rows(path, ["number"], 300, KEPT)[0]["number"].to_pylist() == odd.tolist()


def test_broken_rows_are_counted_and_five_of_them_named(tmp_path: Path) -> None:
    path = _table(tmp_path, *({"size": number} for number in range(20)))
    rules = [Rule("small", pc.field("size") < 7), Rule("huge", pc.field("size") > 100)]
    found = count_broken(path, rules)
    assert found["broken"].tolist() == [7, 0]
    assert found["examples"].tolist() == [", ".join(f"pool/{number}.png" for number in range(5)), ""]
    assert count_broken(path, rules, pc.field("size") >= 5)["broken"].tolist() == [2, 0]


def test_a_rule_on_a_missing_value_does_not_count_the_row(tmp_path: Path) -> None:
    path = _table(tmp_path, {"size": None}, {"size": 3})
    assert count_broken(path, [Rule("small", pc.field("size") < 7)])["broken"].tolist() == [1]


def test_a_hash_kept_twice_is_counted_and_named(tmp_path: Path) -> None:
    same = "ab" * 32
    path = _table(tmp_path, {"sha256": same}, {"sha256": "cd" * 32}, {"sha256": same}, {"sha256": same, "fate": "lost"})
    name, count, examples = count_repeated(path, KEPT)
    assert (count, examples) == (1, "pool/2.png") and "twice" in name


@pytest.mark.parametrize("other", ["ab" * 8 + "1" * 48, "ab" * 7 + "cd" + "0" * 48])
def test_hashes_that_only_begin_alike_are_no_copies(tmp_path: Path, other: str) -> None:
    path = _table(tmp_path, {"sha256": "ab" * 8 + "0" * 48}, {"sha256": other}, {"sha256": None})
    assert count_repeated(path, KEPT)[1] == 0
