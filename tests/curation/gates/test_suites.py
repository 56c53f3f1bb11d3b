"""The suites of curation's tables: what each must refuse, row by row, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dinomill.curation.gates.suites import embeddings_suite, files_suite, manifest_suite
from dinomill.curation.scan.preflight import PreflightConfig
from dinomill.quality.gate import GateConfig, QualityError, check_table

LIMITS = PreflightConfig(min_side=8)


def _held(
    name: str, rows: list[dict[str, Any]], suite: list[Any], root: Path, index: tuple[str, ...] = ("source", "path")
) -> str:
    """What the gate says of a table: nothing, or its complaint."""
    try:
        check_table(
            name, pd.DataFrame(rows), suite, GateConfig(docs=False), folder=root / "q", work=root / "w", index=index
        )
    except QualityError as error:
        return str(error)
    return ""


def _file(number: int, **more: Any) -> dict[str, Any]:
    row = {"source": "pool", "path": f"{number}.png", "usable": True, "sha256": f"{number:064x}", "pixels": "p"}
    return row | {"width": 20, "height": 20, "brightness": 0.5, "entropy": 3.0, "channels": 3} | more


def _unusable(number: int) -> dict[str, Any]:
    return (
        _file(number)
        | dict.fromkeys(("sha256", "pixels", "width", "height", "brightness", "entropy", "channels"))
        | {"usable": False}
    )


def test_a_scan_with_some_unusable_files_passes(tmp_path: Path) -> None:
    rows = [*(_file(number) for number in range(6)), _unusable(6), _unusable(7)]
    assert _held("files", rows, files_suite(LIMITS, 0.25), tmp_path) == ""
    assert "usable" in _held("files", rows, files_suite(LIMITS, 0.2), tmp_path)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"sha256": None}, "sha256"),
        ({"sha256": "xyz"}, "sha256=xyz"),
        ({"pixels": None}, "pixels"),
        ({"width": 7}, "width=7"),
        ({"height": 3}, "height=3"),
        ({"brightness": 1.5}, "brightness=1.5"),
        ({"entropy": 9.0}, "entropy=9"),
        ({"channels": 2}, "channels=2"),
    ],
)
def test_a_usable_file_that_is_none_is_named(tmp_path: Path, change: dict[str, Any], shown: str) -> None:
    text = _held("files", [_file(0), _file(1, **change), _file(2)], files_suite(LIMITS, 0.5), tmp_path)
    assert "1 of its 12 expectations" in text
    assert "pool/1.png" in text and shown in text and "pool/0.png" not in text


def test_one_path_twice_is_refused(tmp_path: Path) -> None:
    text = _held("files", [_file(0), _file(1), _file(1)], files_suite(LIMITS, 0.5), tmp_path)
    assert "pool/1.png" in text and "pool/0.png" not in text


def _kept(number: int, **more: Any) -> dict[str, Any]:
    row = {"source": "s", "path": f"{number}.png", "sha256": f"{number:064x}", "fate": "kept", "reason": None}
    return row | {"shard": 0, "offset": 512 + 1024 * number, "length": 100, "kept": True} | more


def _left(number: int, **more: Any) -> dict[str, Any]:
    nowhere = {"fate": "irrelevant", "reason": "x", "shard": None, "offset": None, "length": None, "kept": False}
    return _kept(number) | nowhere | more


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (_left(2, fate="lost"), "fate=lost"),
        (_kept(2, sha256=f"{0:064x}"), "sha256"),
        (_kept(2, shard=None), "shard"),
        (_kept(2, length=0), "length=0"),
        (_kept(2, offset=100), "offset=100"),
        (_left(2, reason=None), "reason"),
        (_left(2, shard=3), "shard=3"),
    ],
)
def test_a_row_that_the_manifest_must_not_have_is_named(tmp_path: Path, row: dict[str, Any], shown: str) -> None:
    rows = [_kept(0), _left(1), row, _kept(3)]
    text = _held("manifest", rows, manifest_suite(), tmp_path)
    assert "1 of its 9 expectations" in text
    assert "s/2.png" in text and shown in text and "s/3.png" not in text


def test_a_good_manifest_passes(tmp_path: Path) -> None:
    assert _held("manifest", [_kept(0), _left(1)], manifest_suite(), tmp_path) == ""


@pytest.mark.parametrize(
    ("change", "shown"),
    [({"finite": False}, "1: finite=False"), ({"norm": 1.2}, "1: norm=1.2"), ({"spread": 0.0}, "observed: 0.0")],
)
def test_an_embedding_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any], shown: str) -> None:
    rows = [{"row": number, "norm": 1.0, "finite": True, "spread": 0.1} for number in range(3)]
    assert _held("embeddings", rows, embeddings_suite(), tmp_path, ("row",)) == ""
    rows[1] |= change
    assert shown in _held("embeddings", rows, embeddings_suite(), tmp_path, ("row",))
