"""What no row may be, counted over whole tables: each rule finds its row and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dinomill.curation.gates.rules import files_rules, manifest_rules
from dinomill.curation.scan.scan import FILES_SCHEMA
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.quality.counting import Rule, count_broken
from dinomill.storage.atomic import write_parquet


def _broken(root: Path, rows: list[dict[str, Any]], schema: pa.Schema, rules: list[Rule]) -> dict[str, str]:
    """The rules that are broken, and by which rows."""
    write_parquet(root / "table.parquet", pa.Table.from_pylist(rows, schema=schema))
    found = count_broken(root / "table.parquet", rules)
    assert len(found) == len(rules)
    return {row.rule: row.examples for row in found.itertuples() if row.broken}


def _kept(number: int, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(MANIFEST_SCHEMA.names) | {"path": f"{number}.png", "source": "pool", "fate": "kept"}
    return row | {"sha256": f"{number:064x}", "shard": 0, "offset": 512, "length": 100} | more


def _left(number: int, **more: Any) -> dict[str, Any]:
    nowhere = {"fate": "irrelevant", "reason": "x", "shard": None, "offset": None, "length": None}
    return _kept(number) | nowhere | more


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (_left(1, fate="lost"), "a fate that there is not"),
        (_kept(1, shard=None), "kept, and in no shard"),
        (_kept(1, length=0), "kept, and of no length"),
        (_kept(1, length=None), "kept, and of no length"),
        (_kept(1, sha256=None), "kept, and without a hash"),
        (_left(1, reason=None), "left out, and no reason"),
        (_left(1, shard=0), "left out, and in a shard"),
    ],
)
def test_a_manifest_row_breaks_its_rule_alone(tmp_path: Path, row: dict[str, Any], rule: str) -> None:
    assert _broken(tmp_path, [_kept(0), row, _left(2)], MANIFEST_SCHEMA, manifest_rules()) == {rule: "pool/1.png"}


def test_a_good_manifest_breaks_none(tmp_path: Path) -> None:
    assert _broken(tmp_path, [_kept(0), _left(1)], MANIFEST_SCHEMA, manifest_rules()) == {}


def _file(number: int, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(FILES_SCHEMA.names) | {"group": "pool", "candidate": True, "source": "pool", "start": -1}
    row |= {"path": f"{number}.png", "place": "", "sha256": f"{number:064x}", "pixels": "p"}
    return row | {"width": 20, "height": 20, "brightness": 0.5, "entropy": 3.0} | more


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"sha256": None}, "usable, and without a hash"),
        ({"pixels": None}, "usable, and without a hash"),
        ({"width": 7}, "usable, and too small"),
        ({"height": None}, "usable, and too small"),
        ({"entropy": None}, "usable, and not measured"),
    ],
)
def test_a_usable_file_breaks_its_rule_alone_and_an_unusable_one_none(
    tmp_path: Path, change: dict[str, Any], rule: str
) -> None:
    nothing = dict.fromkeys(("sha256", "pixels", "width", "height", "brightness", "entropy"))
    rows = [_file(0), _file(1, **change), _file(2, reason="truncated", **nothing)]
    assert _broken(tmp_path, rows, FILES_SCHEMA, files_rules(8)) == {rule: "pool/1.png"}
