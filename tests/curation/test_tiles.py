"""Large images among a pool, cut into tiles: the whole stage over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from dinomill.curation.config import CurationConfig
from dinomill.curation.stage import curate
from dinomill.errors import InputError
from dinomill.images.decode import decode_image
from dinomill.images.listing import TILE, Item, read_item
from dinomill.images.shards import Location, ShardReader
from dinomill.planning.pool import survey
from dinomill.reporting.pictures import Originals

Configure = Callable[..., CurationConfig]
SIDE = 64


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, the first with a quarter of nothing; one file that is none."""
    from skimage import data

    folder = tmp_path_factory.mktemp("scenes")
    first, second = data.astronaut().copy(), data.coffee()
    first[:256, :256] = np.random.default_rng(0).integers(235, 242, (256, 256, 1))
    tifffile.imwrite(folder / "a.tif", first, photometric="rgb", tile=(128, 128), compression="jpeg")
    tifffile.imwrite(folder / "b.tif", second, photometric="rgb", rowsperstrip=16, compression="deflate")
    (folder / "broken.tif").write_bytes(b"II*\x00" + bytes(99))
    return folder


def test_tiles_are_curated_like_any_image(scenes: Path, tmp_path: Path, planted: Any, configure: Configure) -> None:
    pool = [str(planted.seeds), {"path": str(scenes), "tiles": {"side": SIDE}}]
    dataset = curate(pool, None, None, configure(tmp_path, scan={"max_bad_fraction": 0.1, "files_per_task": 50}))
    rows = [row for row in pq.read_table(dataset.manifest).to_pylist() if row["source"] == str(scenes)]
    assert len(rows) == 8 * 8 + 9 * 6 + 1
    assert dataset.sources == (str(planted.seeds), str(scenes))
    by_name = {row["path"]: row for row in rows}
    assert (by_name["broken.tif"]["fate"], by_name["broken.tif"]["reason"]) == ("quarantined", "corrupt")
    tiles = [row for row in rows if row["tile_of"]]
    for row in tiles:
        assert row["path"] == f"{row['tile_of']}#y{row['tile_y']:06d}-x{row['tile_x']:06d}-s{SIDE}"
        assert row["tile_side"] == SIDE
    empty = {(row["tile_x"], row["tile_y"]) for row in tiles if row["reason"] == "empty_tile"}
    blank = {(x, y) for x in range(0, 256, SIDE) for y in range(0, 256, SIDE)}
    assert blank <= empty
    assert all(
        row["fate"] == "filtered" and "contrast" in row["detail"] for row in tiles if row["reason"] == "empty_tile"
    )
    kept = [row for row in tiles if row["fate"] == "kept"]
    assert len(kept) > 60, Counter(row["fate"] for row in tiles)
    reader = ShardReader(dataset.shards)
    scene = {name: tifffile.imread(scenes / name) for name in ("a.tif", "b.tif")}
    for row in kept:
        shown = decode_image(reader.read(Location(row["shard"], row["offset"], row["length"])))
        x, y = row["tile_x"], row["tile_y"]
        assert (row["format"], row["width"], row["height"]) == ("PNG", SIDE, SIDE)
        assert np.array_equal(shown, scene[row["tile_of"]][y : y + SIDE, x : x + SIDE])
        assert row["length"] < row["bytes"]
    page = (dataset.folder / "curation.html").read_text()
    assert "empty tile" in page
    originals = Originals(dataset, 32)
    assert all(originals.picture(row).uri for row in tiles[:3]), "left out or kept, a tile can be shown"


def test_the_same_dataset_with_processes_and_other_tasks(scenes: Path, tmp_path: Path, configure: Configure) -> None:
    pool = [{"path": str(scenes), "tiles": {"side": SIDE, "border": "shift"}}]
    execution = {"executor": "processes", "workers": 2}
    one = curate(pool, None, None, configure(tmp_path / "one"))
    two = curate(pool, None, None, configure(tmp_path / "two", scan={"files_per_task": 7}, execution=execution))
    assert one.manifest_sha256 == two.manifest_sha256
    assert [path.read_bytes() for path in one.shards] == [path.read_bytes() for path in two.shards]


def test_the_survey_counts_tiles(scenes: Path) -> None:
    from dinomill.images.tiles import TileConfig

    seen = survey([str(scenes)], tiles={str(scenes): TileConfig(side=SIDE)})
    assert (seen.files, seen.sampled) == (119, 119)
    assert seen.unreadable == {"corrupt": 1}
    assert seen.empty >= 16
    assert seen.images == 118 - seen.empty
    assert (seen.short_side.median, seen.largest_pixels) == (SIDE, SIDE * SIDE)


def test_reading_one_tile_decodes_few_pieces(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinomill.images import tiff, windows

    decoded = []
    decode = tiff.Pieces._decode
    monkeypatch.setattr(tiff.Pieces, "_decode", lambda *given: decoded.append(given[2]) or decode(*given))
    windows._opened.cache_clear()
    read_item(str(scenes), Item("a.tif#y000064-x000320-s64", 0, "", TILE))
    assert len(decoded) == 1, "one of sixteen"


def test_scenes_on_which_nothing_shows_are_said_to_be_that(tmp_path: Path, configure: Configure) -> None:
    """A table without a row failed its suite, in a sentence that knew of no tile."""
    (tmp_path / "flat").mkdir()
    tifffile.imwrite(tmp_path / "flat" / "a.tif", np.full((256, 256, 3), 200, dtype=np.uint8), photometric="rgb")
    pool = [{"path": str(tmp_path / "flat"), "tiles": {"side": SIDE}}]
    with pytest.raises(InputError, match="Every tile of the pool is empty") as caught:
        curate(pool, None, None, configure(tmp_path / "run"))
    assert "min_tile_contrast" in str(caught.value)
