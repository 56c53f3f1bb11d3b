"""A file that was looked at is not looked at again; one that changed is."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dinomill.curation.handles import ScanHandle
from dinomill.curation.scan import known
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.execution.tasks import ExecutionConfig
from dinomill.storage.hashing import hash_file
from tests.curation.conftest import encoded

INLINE = ExecutionConfig(executor="inline")
Scan = Callable[..., ScanHandle]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Forty pictures, a broken one, and one that is there twice."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.png").write_bytes(encoded(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)))
    (folder / "cut.png").write_bytes((folder / "00.png").read_bytes()[:-30])
    shutil.copy(folder / "01.png", folder / "again.png")
    return folder


@pytest.fixture
def look(tmp_path: Path) -> Scan:
    def run(*sources: Path, work: str = "work", **settings: Any) -> ScanHandle:
        config = ScanConfig.model_validate({"files_per_task": 16} | settings)
        groups = {"pool": [str(source) for source in sources]}
        return scan(groups, config, folder=tmp_path / "out", work=tmp_path / work, execution=INLINE)

    return run


def _rows(handle: ScanHandle) -> tuple[list[dict[str, Any]], bytes]:
    """Everything but where the files lie."""
    table = pq.read_table(handle.files).drop_columns(["source", "path", "start"])
    return table.to_pylist(), handle.signatures.read_bytes()


def test_nothing_is_read_twice_and_the_result_is_the_same(pool: Path, look: Scan) -> None:
    first = look(pool)
    assert first.work == {"read": 42, "decoded": 41, "taken_over": 0}
    before = (hash_file(first.files), hash_file(first.signatures), hash_file(first.quarantine))
    (pool / "new.png").write_bytes(encoded(np.full((24, 24, 3), 77, np.uint8)))
    assert look(pool).work == {"read": 1, "decoded": 1, "taken_over": 42}
    (pool / "new.png").unlink()
    again = look(pool, files_per_task=5)
    assert again.work == {"read": 0, "decoded": 0, "taken_over": 42}
    assert (hash_file(again.files), hash_file(again.signatures), hash_file(again.quarantine)) == before
    assert again.quarantined == {"truncated": 1}


def test_a_repeated_run_counts_what_the_first_did(pool: Path, look: Scan) -> None:
    first = look(pool)
    assert look(pool) == first  # so that nothing that depends on the handle becomes stale


def test_renamed_and_moved_and_packed_files_are_read_and_not_decoded(pool: Path, look: Scan, tmp_path: Path) -> None:
    rows = sorted(map(str, _rows(look(pool))[0]))
    moved = tmp_path / "elsewhere" / "deep"
    moved.parent.mkdir()
    pool.rename(moved)
    for path in sorted(moved.iterdir()):
        path.rename(moved / f"x{path.stem[::-1]}{path.suffix}")
    there = look(moved.parent)
    assert there.work == {"read": 42, "decoded": 0, "taken_over": 42}
    assert sorted(map(str, _rows(there)[0])) == rows
    with tarfile.open(tmp_path / "pool.tar", "w") as archive:
        archive.add(moved, "x")
    assert look(tmp_path / "pool.tar").work == {"read": 42, "decoded": 0, "taken_over": 42}


def test_a_changed_file_is_looked_at_again(pool: Path, look: Scan) -> None:
    first = look(pool)
    status = (pool / "05.png").stat()
    (pool / "05.png").write_bytes(encoded(np.full((24, 24, 3), 200, np.uint8)))
    os.utime(pool / "05.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    os.utime(pool / "06.png")  # touched, and nothing else
    found = look(pool)
    assert found.work == {"read": 2, "decoded": 1, "taken_over": 41}
    changed = [a["sha256"] != b["sha256"] for a, b in zip(_rows(first)[0], _rows(found)[0], strict=True)]
    assert sum(changed) <= 1


def test_other_settings_and_other_code_look_anew(pool: Path, look: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    look(pool)
    assert look(pool, preflight={"min_side": 9}).work["decoded"] == 41
    monkeypatch.setattr(known, "_CODE", ("dinomill.images.pixels",))
    assert look(pool).work == {"read": 42, "decoded": 41, "taken_over": 0}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that nobody can read")
def test_what_could_not_be_read_is_tried_again(pool: Path, look: Scan, tmp_path: Path) -> None:
    manifest = tmp_path / "pool.csv"
    manifest.write_text("path\n" + "\n".join(["/proc/self/mem", *map(str, sorted(pool.iterdir()))]) + "\n")
    assert look(manifest).quarantined == {"truncated": 1, "unreadable": 1}
    (tmp_path / "work" / "done" / "scan.json").unlink()  # what the last run did
    again = look(manifest)
    assert again.quarantined == {"truncated": 1, "unreadable": 1}
    assert again.work == {"read": 1, "decoded": 0, "taken_over": 42}


@pytest.mark.parametrize("what", ["read", "looks", "both"])
def test_cut_files_of_the_cache_are_made_again(pool: Path, look: Scan, tmp_path: Path, what: str) -> None:
    first = _rows(look(pool))
    cache = tmp_path / "work" / "cache" / "scan"
    tables = sorted(cache.rglob("*.parquet"))
    assert len(tables) == 6
    for path in tables:
        if what == "both" or (path.parent.name == "read") == (what == "read"):
            os.truncate(path, path.stat().st_size // 2)
    (tmp_path / "work" / "done" / "scan.json").unlink()  # what the last run did
    again = look(pool)
    assert again.work["read"] == 42 and again.work["decoded"] == (0 if what == "read" else 41)
    assert _rows(again) == first


def test_a_cache_may_be_removed_at_any_time(pool: Path, look: Scan, tmp_path: Path) -> None:
    first = _rows(look(pool))
    shutil.rmtree(tmp_path / "work" / "cache")
    assert _rows(look(pool)) == first


def test_two_environments_share_what_was_seen(pool: Path, tmp_path: Path) -> None:
    def run(name: str) -> ScanHandle:
        place = tmp_path / name
        return scan(
            {"pool": [str(pool)]},
            ScanConfig(),
            folder=place / "out",
            work=place / "work",
            execution=INLINE,
            cache=tmp_path / "cache",
        )

    assert run("one").work["decoded"] == 41
    assert run("two").work == {"read": 0, "decoded": 0, "taken_over": 42}
