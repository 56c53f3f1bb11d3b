"""The list of withdrawn images: read, written, matched; damage is an error, never an empty list."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dinomill.errors import InputError
from dinomill.images.withdrawn import Withdrawal, WithdrawnList

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def table(**columns: list[str | None]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    names = ("sha256", "pixels", "source", "path", "tile_of")
    return pa.table({name: pa.array(columns.get(name, [None] * rows), pa.string()) for name in names})


def test_what_is_written_is_read_and_in_one_order(tmp_path: Path) -> None:
    rows = [Withdrawal(A, because='asked by "x", at once\nand again', date="2026-01-02"), Withdrawal(B, C, copy_of=A)]
    WithdrawnList(rows).write(tmp_path / "a.csv")
    WithdrawnList(reversed(rows)).write(tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert set(WithdrawnList.read(tmp_path / "a.csv").rows) == set(rows)


def test_an_image_is_found_by_bytes_pixels_and_the_picture_that_it_is_cut_from() -> None:
    found = WithdrawnList([Withdrawal(A), Withdrawal(B, C), Withdrawal("", picture="scans/x.tif")]).of(
        table(
            sha256=[A, None, "d" * 64, "e" * 64, "f" * 64, "0" * 64],
            pixels=[None, None, C, None, None, None],
            source=["p", "p", "p", "scans", "scans", "other"],
            path=["1", "2", "3", "x.tif#0", "y.tif", "x.tif"],
            tile_of=[None, None, None, "x.tif", None, None],
        )
    )
    assert found.tolist() == [True, False, True, True, False, False]


def test_reasons_and_dates_make_no_dataset_stale() -> None:
    one, other = WithdrawnList([Withdrawal(A, because="x")]), WithdrawnList([Withdrawal(A, date="2026-01-01")])
    assert one.content_hash() == other.content_hash() != WithdrawnList([Withdrawal(B)]).content_hash()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no list of withdrawn images"),
        ("sha256\n", "no list of withdrawn images"),
        ("sha256,pixels,picture,copy_of,date,because\nabc,,,,,\n", "line 2, names no image"),
        (f"sha256,pixels,picture,copy_of,date,because\n{A}\n", "line 2, names no image"),
        ("sha256,pixels,picture,copy_of,date,because\n,,,,2026-01-01,x\n", "line 2, names no image"),
        (f"sha256,pixels,picture,copy_of,date,because\n{A},,,,,\n<<<<<<< HEAD\n", "line 3, names no image"),
        (f"sha256,pixels,picture,copy_of,date,because\n{A},,,,,asked\rby\n", "line 3, names no image"),
        (f"sha256,pixels,picture,copy_of,date,because\n{A},,,,,{'x' * 200_000}\n", "line 2, cannot be read"),
    ],
)
def test_a_damaged_list_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        WithdrawnList.read(tmp_path / "list.csv")


def test_a_lost_list_is_an_error_and_no_list_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="git checkout"):
        WithdrawnList.read(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00s")
    with pytest.raises(InputError, match="UTF-8"):
        WithdrawnList.read(tmp_path / "list.csv")
    assert len(WithdrawnList.read(None)) == 0


def test_ends_of_lines_in_a_cell_are_kept(tmp_path: Path) -> None:
    rows = [
        Withdrawal("", picture=f"scans/x{end}.tif", because=f"asked{end}by") for end in ("\r", "\r\n", "\n", "\x85")
    ]
    WithdrawnList(rows).write(tmp_path / "list.csv")
    assert set(WithdrawnList.read(tmp_path / "list.csv").rows) == set(rows)


def test_a_list_that_a_spreadsheet_wrote_is_read(tmp_path: Path) -> None:
    text = f"sha256,pixels,picture,copy_of,date,because\n{A},,,,,größer\n"
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert WithdrawnList.read(tmp_path / "list.csv").rows == (Withdrawal(A, because="größer"),)
