"""Rows kept by key: found again, never wrong, whatever happens to their files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.storage.hashing import hash_bytes
from dinomill.storage.kept import KeyIndex, Keys, as_hashes, as_keys, made_by, remove_unused
from dinomill.storage.kept_rows import Damaged, KeptRows, write_rows_kept
from dinomill.storage.kept_tables import KEY_FIELD, KeptTables, files, to_arrow, write_table

_VALUE = [pa.field("value", pa.int64())]
_SCHEMA = pa.schema([KEY_FIELD, *_VALUE])


def _keys(*numbers: int) -> Keys:
    return as_keys(hash_bytes(str(number).encode()) for number in numbers)


def _rows(*numbers: int) -> np.ndarray:
    return np.array([[number, number + 0.5, -number] for number in numbers], dtype=np.float16)


def _table(*numbers: int) -> pa.Table:
    return pa.table([to_arrow(_keys(*numbers)), pa.array(numbers, pa.int64())], schema=_SCHEMA)


def test_keys_and_hashes_are_the_same_thing() -> None:
    hashes = [hash_bytes(str(number).encode()) for number in range(500)]
    assert any(one.endswith("00") for one in hashes)  # numpy drops such bytes from what it shows
    assert as_hashes(as_keys(hashes)) == hashes


def test_an_index_finds_what_is_there_and_nothing_else() -> None:
    index = KeyIndex(_keys(*range(0, 1000, 2)))
    found = index.find(_keys(*range(1000)))
    assert np.array_equal(found[::2], np.arange(500)) and (found[1::2] == -1).all()
    assert (KeyIndex(_keys()).find(_keys(1, 2)) == -1).all()
    assert not len(index.find(_keys()))
    alike = np.array([b"a" * 8 + b"x" * 24, b"a" * 8 + b"y" * 24], dtype="S32")  # the same first eight bytes
    found = KeyIndex(alike).find(np.array([b"a" * 8 + b"z" * 24, *alike], dtype="S32"))
    assert found[0] == -1 and 1 in found  # another key is never taken for it


def test_rows_of_several_files_come_back_in_any_order(tmp_path: Path) -> None:
    write_rows_kept(tmp_path, _keys(1, 2, 3), _rows(1, 2, 3))
    write_rows_kept(tmp_path, _keys(4, 5), _rows(4, 5))
    kept = KeptRows(tmp_path)
    found = kept.find(_keys(5, 1, 9, 3))
    assert found[2] == -1
    assert np.array_equal(kept.take(found[[0, 1, 3]]), _rows(5, 1, 3))


def test_a_table_comes_back_with_nulls_for_what_is_not_there(tmp_path: Path) -> None:
    assert (KeptTables(tmp_path / "none").find(_keys(1)) == -1).all()
    write_table(tmp_path, _table(1, 2))
    write_table(tmp_path, _table(3))
    kept = KeptTables(tmp_path, _VALUE)
    found = kept.take(kept.find(_keys(3, 9, 1)), pa.schema([_SCHEMA.field("value")]))
    assert found["value"].to_pylist() == [3, None, 1]


@pytest.mark.parametrize("part", [".npy", ".keys.npy"])
@pytest.mark.parametrize("left", [0, 40, 200])
def test_a_cut_file_is_found_out_when_it_is_opened(
    tmp_path: Path, part: str, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    number = list(range(200))
    path = write_rows_kept(tmp_path, _keys(*number), _rows(*number))
    write_rows_kept(tmp_path, _keys(500), _rows(500))
    os.truncate(path.with_name(path.name.replace(".keys.npy", part)), left)
    kept = KeptRows(tmp_path)
    assert (kept.find(_keys(*number)) == -1).all() and kept.find(_keys(500))[0] >= 0
    assert "damaged" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 2  # the damaged pair is gone


def test_a_changed_byte_is_found_out_when_its_row_is_read(tmp_path: Path) -> None:
    path = write_rows_kept(tmp_path, _keys(1, 2, 3), _rows(1, 2, 3))
    rows = path.with_name(path.name.replace(".keys", ""))
    content = bytearray(rows.read_bytes())
    content[-8] ^= 1
    rows.write_bytes(content)
    kept = KeptRows(tmp_path)
    assert np.array_equal(kept.take(kept.find(_keys(1))), _rows(1))
    with pytest.raises(Damaged):
        kept.take(kept.find(_keys(1, 2, 3)))
    assert (KeptRows(tmp_path).find(_keys(1, 2, 3)) == -1).all()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_table_is_dropped_and_the_others_stay(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_table(tmp_path, _table(*range(300)))
    write_table(tmp_path, _table(500))
    content = bytearray(path.read_bytes())
    content[40] ^= 1  # within the first page
    path.write_bytes({"cut": bytes(content[:100]), "flipped": bytes(content), "empty": b""}[damage])
    kept = KeptTables(tmp_path, _VALUE)
    assert (kept.find(_keys(*range(300))) == -1).all() and kept.find(_keys(500))[0] >= 0
    assert not path.exists() and "damaged" in capsys.readouterr().err


def test_rows_without_keys_do_not_count(tmp_path: Path) -> None:
    path = write_rows_kept(tmp_path, _keys(1), _rows(1))
    path.unlink()  # as if killed between the two
    assert KeptRows(tmp_path).find(_keys(1))[0] == -1
    write_rows_kept(tmp_path, _keys(1), _rows(1))
    assert KeptRows(tmp_path).find(_keys(1))[0] == 0


def test_many_small_additions_become_one_file_and_the_old_ones_grow_old(tmp_path: Path) -> None:
    for number in range(40):
        write_rows_kept(tmp_path / "rows", _keys(number), _rows(number))
        write_table(tmp_path / "tables", _table(number))
    old = time.time() - 100 * 86_400
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (old, old))
    wanted = _keys(*range(40))
    kept, tables = KeptRows(tmp_path / "rows"), KeptTables(tmp_path / "tables", _VALUE)
    kept.tidy(kept.find(wanted))
    tables.tidy(tables.find(wanted))
    remove_unused(tmp_path)
    assert len(list((tmp_path / "rows").iterdir())) == 2 and len(files(tmp_path / "tables")) == 1
    kept, tables = KeptRows(tmp_path / "rows"), KeptTables(tmp_path / "tables", _VALUE)
    assert np.array_equal(kept.take(kept.find(wanted)), _rows(*range(40)))
    assert tables.take(tables.find(wanted), _SCHEMA)["value"].to_pylist() == list(range(40))


def test_what_was_used_stays_and_what_was_not_goes_after_its_time(tmp_path: Path) -> None:
    used = write_rows_kept(tmp_path / "a", _keys(1), _rows(1))
    unused = write_rows_kept(tmp_path / "b", _keys(2), _rows(2))
    left = tmp_path / "b" / ".x.npy.123.tmp"
    left.write_bytes(b"of a killed writer")
    old = time.time() - 91 * 86_400
    for path in (*tmp_path.glob("*/*.npy"), left):
        os.utime(path, (old, old))
    kept = KeptRows(tmp_path / "a")
    kept.tidy(kept.find(_keys(1)))
    remove_unused(tmp_path)
    assert used.exists() and not unused.parent.exists()
    assert KeptRows(tmp_path / "a").find(_keys(1))[0] == 0


def test_other_code_or_another_library_is_another_hash() -> None:
    code = made_by(["dinomill.storage.kept"], ["numpy"])
    assert code == made_by(["dinomill.storage.kept"], ["numpy"])
    others = {
        made_by(["dinomill.storage.kept", "dinomill.storage.hashing"], ["numpy"]),
        made_by(["dinomill.storage"], ["numpy"]),
        made_by(["dinomill.storage.kept"], ["pyarrow"]),
        made_by(["dinomill.storage.kept"], ["no-such-package"]),
    }
    assert len(others | {code}) == 5


def _foreign(place: Path, kind: str) -> None:
    """Something that is not ours, under a name that a file of ours might have."""
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "link to itself":
        place.symlink_to(place.name)
    elif kind == "broken link":
        place.symlink_to("nothing")
    elif kind == "text":
        place.write_text("a note\n")
    elif place.suffix == ".parquet":
        other = pa.table({"key": ["x"], "value": [1]} if kind == "other types" else {"colour": ["red"]})
        pq.write_table(other, place)
    else:
        rows = np.zeros((3, 5), dtype=np.float16 if kind == "other types" else np.float64)
        write_rows_kept(place.parent, _keys(7, 8, 9), rows, place.name.removesuffix(".keys.npy"))


FOREIGN = ["folder", "pipe", "link to itself", "broken link", "text", "other table", "other types"]


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_things_among_tables_are_passed_over(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path, _table(1, 2))
    _foreign(tmp_path / "x.parquet", kind)
    kept = KeptTables(tmp_path, _VALUE)
    assert kept.take(kept.find(_keys(2, 9)), pa.schema(_VALUE))["value"].to_pylist() == [2, None]
    assert KeptTables(tmp_path).find(_keys(1))[0] >= 0
    kept.tidy(kept.find(_keys(1)))
    if kind.startswith("other"):
        assert (tmp_path / "x.parquet").exists()  # whole, and somebody's
        assert "x.parquet is no table of this folder" in capsys.readouterr().err


@pytest.mark.parametrize("part", [".keys.npy", ".npy"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_things_among_rows_are_passed_over(tmp_path: Path, kind: str, part: str) -> None:
    write_rows_kept(tmp_path, _keys(*range(6)), _rows(*range(6)))
    if not kind.startswith("other"):
        write_rows_kept(tmp_path, _keys(7), _rows(7), "x")
        (tmp_path / f"x{part}").unlink()
    _foreign(tmp_path / (f"x{part}" if not kind.startswith("other") else "x.keys.npy"), kind)
    kept = KeptRows(tmp_path)
    assert kept.find(_keys(7))[0] == -1
    assert np.array_equal(kept.take(kept.find(_keys(5, 0))), _rows(5, 0))
    kept.tidy(kept.find(_keys(1)))


def test_what_may_not_be_read_is_named_and_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(tmp_path, _table(1))
    rows = write_rows_kept(tmp_path, _keys(1), _rows(1))
    if os.geteuid():
        path.chmod(0)
        rows.chmod(0)
    else:  # root reads everything

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(pq, "ParquetFile", refuse)
        monkeypatch.setattr(np, "load", refuse)
    assert KeptTables(tmp_path, _VALUE).find(_keys(1))[0] == -1
    assert KeptRows(tmp_path).find(_keys(1))[0] == -1
    assert path.exists() and rows.exists()
    assert capsys.readouterr().err.count("Permission denied") == 2
