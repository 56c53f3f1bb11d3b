"""The scan of all files: what it writes, in which order, and what it refuses."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinomill.curation.config import CurationConfig
from dinomill.curation.handles import ScanHandle
from dinomill.curation.scan.scan import FILES_SCHEMA
from dinomill.curation.scan.tables import read_files
from dinomill.curation.stage import curate
from dinomill.errors import InputError

Configure = Callable[..., CurationConfig]


@pytest.fixture(scope="module")
def scanned(curated: Any) -> ScanHandle:
    return ScanHandle.load(curated[0].folder.parent / "scan")


def test_every_file_of_every_group_has_a_row_in_order(scanned: ScanHandle, planted: Any) -> None:
    files = read_files(scanned)
    assert files.schema == FILES_SCHEMA
    keys = list(zip(*(files[name].to_pylist() for name in ("group", "source", "path")), strict=True))
    groups = ["pool", "labelled", "seeds:digits"]
    assert keys == sorted(keys, key=lambda key: (groups.index(key[0]), *key[1:])) and len(set(keys)) == len(keys)
    there = {
        "pool": len(planted.kind),
        "labelled": sum(path.is_file() for path in planted.labelled.rglob("*")),
        "seeds:digits": sum(path.is_file() for path in planted.seeds.iterdir()),
    }
    assert Counter(group for group, _, _ in keys) == there == scanned.groups
    assert files["candidate"].to_pylist() == [group == "pool" for group, _, _ in keys]


def test_a_file_is_measured_or_has_a_reason(scanned: ScanHandle) -> None:
    rows = read_files(scanned).to_pylist()
    measured = ("pixels", "width", "height", "channels", "phash", "brightness", "contrast", "sharpness", "entropy")
    for row in rows:
        usable = row["reason"] is None
        assert all((row[name] is not None) is usable for name in measured), row["path"]
        assert usable or row["detail"]


def test_what_is_left_out_stands_in_the_quarantine_ledger(scanned: ScanHandle) -> None:
    with scanned.quarantine.open(encoding="utf-8", newline="") as file:
        ledger = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert ledger == {
        "bad/empty.png": "empty",
        "bad/text.jpg": "not_an_image",
        "bad/cut.png": "truncated",
        "bad/pixel.png": "too_small",
    }
    assert scanned.quarantined == dict.fromkeys(ledger.values(), 1)


def test_a_signature_a_row_and_none_for_what_cannot_be_read(scanned: ScanHandle) -> None:
    signatures = np.load(scanned.signatures)
    files = read_files(scanned, ["reason"])
    assert len(signatures) == len(files) and signatures.dtype == np.int8
    unreadable = np.array([reason is not None for reason in files["reason"].to_pylist()])
    assert np.array_equal(~signatures.any(axis=1), unreadable)


def test_an_empty_pool_is_a_clear_error(planted: Any, tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="no file in the sources of pool"):
        curate([str(tmp_path / "nothing")], None, None, configure(tmp_path / "out"))


def test_a_missing_seed_folder_is_a_clear_error(planted: Any, tmp_path: Path, configure: Configure) -> None:
    with pytest.raises(InputError, match="There is no"):
        curate([str(planted.pool)], {"a": str(tmp_path / "missing")}, None, configure(tmp_path / "out"))


def test_a_mostly_broken_pool_stops_before_training(tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "pool").mkdir()
    for number in range(10):
        (tmp_path / "pool" / f"{number}.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="10 of the 10 files of the pool cannot be used") as caught:
        curate([str(tmp_path / "pool")], None, None, configure(tmp_path / "out"))
    assert "not_an_image" in str(caught.value) and "quarantine.csv" in str(caught.value)
