"""A file that holds no embeddings is said by name, with what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.embeddings.file import Embeddings
from dinomill.errors import InputError

_HEAD = json.dumps({"model": "network"})
_ONES = np.ones((2, 3), np.float32)
_LISTS = [[1.0, 2.0], [3.0, 4.0]]


def _pair(folder: Path, array: np.ndarray | bytes = _ONES, *lines: str) -> Path:
    path = folder / "all.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        np.save(path, array)
    path.with_suffix(".txt").write_text("\n".join(lines or (_HEAD, '"a"', '"b"')) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("array", "lines", "said"),
    [
        (b"", (), "No data left in file"),
        (b"\x93NUMPY", (), ""),
        (np.array([["a", "b"], ["c", "d"]]), (), "which are no numbers"),
        (_ONES > 0, (), "array of bool"),
        (_ONES, ("[]", '"a"', '"b"'), "does not begin with what made them"),
        (_ONES, ("{}", '"a"', '"b"'), "does not begin with what made them"),
        (_ONES, ("", ""), "does not begin with what made them"),
        (_ONES, ('{"model": 3}', '"a"', '"b"'), "3 in place of the model"),
        (_ONES, ('{"model": "m", "image_size": "x"}', '"a"', '"b"'), "'x' in place of the image size"),
        (_ONES, (_HEAD, '"a"', "null"), "None in place of the path of row 1"),
        (_ONES, (_HEAD, '"a"'), "1 paths for an array of shape (2, 3)"),
    ],
)
def test_a_pair_that_is_none(tmp_path: Path, array: np.ndarray | bytes, lines: tuple[str, ...], said: str) -> None:
    path = _pair(tmp_path, array, *lines)
    with pytest.raises(InputError, match="holds no embeddings") as failed:
        Embeddings.load(path)
    assert str(path) in failed.value.problem
    assert failed.value.found and said in failed.value.found


@pytest.mark.parametrize(
    ("column", "paths", "said"),
    [
        (pa.array([1.0, 2.0]), ["a", "b"], "column `embedding` of double in place of lists of numbers"),
        (pa.array(["x", "y"]), ["a", "b"], "column `embedding` of string"),
        (pa.array([b"x", b"y"]), ["a", "b"], "column `embedding` of binary"),
        (pa.array([["x"], ["y"]]), ["a", "b"], "column `embedding` of list<"),
        (pa.array([[1.0, 2.0], None]), ["a", "b"], "1 of 2 rows without an embedding"),
        (pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), ["a", "b"], "lists to be of size=2"),
        (pa.array([[1.0], [2.0, 3.0, 4.0]]), ["a", "b"], "embeddings of 2 widths"),
        (pa.array([], pa.list_(pa.float32(), 2)), [], "it is empty"),
        (pa.array(_LISTS), ["a", None], "None in place of the path of row 1"),
        (pa.array(_LISTS), [1, 2], "1 in place of the path of row 0"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, column: pa.Array, paths: list[object], said: str) -> None:
    path = tmp_path / "all.parquet"
    pq.write_table(pa.table({"path": paths, "embedding": column}), path)
    with pytest.raises(InputError, match="holds no embeddings") as failed:
        Embeddings.load(path)
    assert str(path) in failed.value.problem
    assert failed.value.found and said in failed.value.found


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)])
def test_lists_of_any_kind_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "all.parquet"
    pq.write_table(pa.table({"path": ["a", "b"], "embedding": pa.array(_LISTS, kind)}), path, row_group_size=1)
    found = Embeddings.load(path).vectors
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(_LISTS, np.float32))
