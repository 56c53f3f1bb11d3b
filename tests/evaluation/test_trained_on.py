"""Queries that were trained on are refused by their hash; copies of what was trained on are flagged."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from skimage import data as photographs

from dinomill.errors import InputError
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.trained_on import check_not_trained_on, looks, near_copies
from dinomill.images.manifest import MANIFEST_SCHEMA, Fate
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_file


def tiles(folder: Path, seed: int) -> list[Path]:
    """Parts of a photograph, each in a file."""
    picture = photographs.astronaut()
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    paths = []
    for number in range(12):
        top, left = generator.integers(0, 512 - 96, 2)
        paths.append(folder / f"{number:02d}.png")
        Image.fromarray(picture[top : top + 96, left : left + 96]).save(paths[-1])
    return paths


def manifest(path: Path, files: list[Path], fates: list[Fate]) -> Path:
    rows = [
        {"path": file.name, "source": "pool", "sha256": hash_file(file), "phash": int(look), "fate": fate.value}
        for file, look, fate in zip(files, looks(files), fates, strict=True)
    ]
    write_parquet(path, pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    return path


@pytest.fixture
def pool(tmp_path: Path) -> list[Path]:
    return tiles(tmp_path / "pool", seed=1)


@pytest.fixture
def data(tmp_path: Path, pool: list[Path]) -> ClassifiedSet:
    for number, split in enumerate(("train", "test")):
        for label in ("a", "b"):
            tiles(tmp_path / "set" / split / label, seed=10 + 2 * number + (label == "b"))
    # Another file of the picture that the pool has: smaller, brighter, JPEG.
    copy = Image.open(pool[3]).resize((80, 80)).point(lambda value: min(255, int(1.08 * value)))
    copy.save(tmp_path / "set" / "test" / "a" / "copy.jpg", quality=60)
    found = read_set(SetConfig(labelled=str(tmp_path / "set")), "set", Limits("train", "test", None, None))
    assert isinstance(found, ClassifiedSet)
    return found


def test_the_very_file_is_refused_or_flagged_and_only_if_it_was_kept(
    tmp_path: Path, data: ClassifiedSet, pool: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    query = data.queries.paths[5]
    files = [*pool, query]
    kept = manifest(tmp_path / "kept.parquet", files, [Fate.KEPT] * len(files))
    with pytest.raises(InputError, match="were trained on") as raised:
        check_not_trained_on(data, kept, "refuse", near=False)
    assert f"1 of 25 queries: {data.shown(query)}" in str(raised.value)
    assert "evaluation.trained_on: flag" in str(raised.value)
    with caplog.at_level(logging.WARNING):
        check_not_trained_on(data, kept, "flag", near=False)
    assert data.shown(query) in caplog.text
    removed = manifest(tmp_path / "removed.parquet", files, [*[Fate.KEPT] * len(pool), Fate.EVALUATION_OVERLAP])
    check_not_trained_on(data, removed, "refuse", near=False)


def test_a_copy_in_another_file_is_flagged(
    tmp_path: Path, data: ClassifiedSet, pool: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    kept = manifest(tmp_path / "kept.parquet", pool, [Fate.KEPT] * len(pool))
    with caplog.at_level(logging.WARNING):
        check_not_trained_on(data, kept, "refuse", near=True)
    assert "1 of 25 queries look like images that were trained on (test/a/copy.jpg)" in caplog.text
    caplog.clear()
    check_not_trained_on(data, kept, "refuse", near=False)
    assert not caplog.text


def test_hashes_are_near_by_two_bits_of_any() -> None:
    known = np.array([0b1011, 2**63], dtype=np.uint64)
    queries = np.array([0b1011, 0b1000, 0b1110100, 2**63 + 3, 2**62, 0], dtype=np.uint64)
    assert near_copies(queries, known).tolist() == [True, True, False, True, True, False]
    assert not near_copies(queries, known[:0]).any()
