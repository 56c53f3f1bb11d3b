from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from dinomill.errors import InputError
from dinomill.images.tiles import TileConfig
from dinomill.planning.pool import alignment, bits_of, survey
from dinomill.planning.pool_files import draw, list_all

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def _tiles(side: int, count: int, seed: int = 0) -> list[Pixels]:
    """Places of a photograph, in colour."""
    photograph, random = data.astronaut(), np.random.default_rng(seed)
    corners = random.integers(0, 512 - side, size=(count, 2))
    return [np.ascontiguousarray(photograph[y : y + side, x : x + side]) for y, x in corners]


def _write(folder: Path, images: list[Pixels], suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number:04d}.{suffix}")
    return folder


def test_counts_sides_and_what_cannot_be_read(tmp_path: Path) -> None:
    folder = _write(tmp_path / "pool", _tiles(60, 18) + _tiles(100, 6))
    (folder / "notes").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "0000.png").read_bytes()[:400])
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    Image.fromarray(data.astronaut()[:4, :60]).save(folder / "small.png")
    seen = survey([str(folder)], workers=2)
    assert (seen.files, seen.sampled, seen.images) == (28, 28, 24)
    assert seen.unreadable == {"broken_link": 1, "not_an_image": 1, "too_small": 1, "truncated": 1}
    assert (seen.short_side.smallest, seen.short_side.median, seen.short_side.largest) == (60, 60, 100)
    assert seen.formats == {"PNG": 24}
    assert seen.bytes == sum(path.stat().st_size for path in folder.glob("*") if not path.is_symlink())
    assert seen.channels == 3


def test_grey_stored_as_colour_is_grey_and_a_little_colour_is_colour(tmp_path: Path) -> None:
    grey = [np.repeat(tile.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2) for tile in _tiles(64, 12)]
    seen = survey([str(_write(tmp_path / "grey", grey, "jpg"))])
    assert (seen.coloured, seen.channels) == (0.0, 1)
    for tile in grey:
        tile[:16, :16, 0] = 255  # a sixteenth is red
    assert survey([str(_write(tmp_path / "red", grey))]).coloured == 1.0


def test_sixteen_bits_and_transparency_are_seen(tmp_path: Path) -> None:
    tiles = _tiles(40, 8)
    deep = [(tile[..., 0].astype(np.uint16) * 257) for tile in tiles]
    assert survey([str(_write(tmp_path / "deep", deep, "png"))]).bits == {16: 8}  # type: ignore[arg-type]
    clear = [np.dstack([tile, np.full((40, 40), 128, np.uint8)]) for tile in tiles]
    assert survey([str(_write(tmp_path / "clear", clear))]).alpha == 1.0
    assert [bits_of(mode) for mode in ("L", "I;16B", "uint16", "F", "float32", "I")] == [8, 16, 16, 32, 32, 32]


def test_the_same_thing_at_the_same_place_is_aligned(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tiles = _tiles(48, 24)
    free = survey([str(_write(tmp_path / "free", tiles))])
    frame = np.zeros((48, 48, 1), np.uint8)
    frame[12:36, 12:36] = 120
    shown = [(frame + random.integers(0, 60, (48, 48, 3))).astype(np.uint8) for _ in range(24)]
    aligned = survey([str(_write(tmp_path / "aligned", shown))])
    assert aligned.alignment > 0.8 > 0.3 > free.alignment
    assert aligned.alikeness > free.alikeness


def test_alignment_is_the_mean_of_all_correlations() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 32, 32)).astype(np.float32)
    every = np.corrcoef(rows.reshape(5, -1))
    assert alignment(rows) == pytest.approx(every[~np.eye(5, dtype=bool)].mean(), abs=1e-6)
    assert alignment(rows[:1]) == 0.0


def test_tars_and_manifests_are_read_where_they_lie(tmp_path: Path) -> None:
    folder = _write(tmp_path / "pool", _tiles(32, 9))
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for path in sorted(folder.iterdir())[:4]:
            payload = path.read_bytes()
            entry = tarfile.TarInfo(path.name)
            entry.size = len(payload)
            archive.addfile(entry, io.BytesIO(payload))
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(f"pool/{number:04d}.png" for number in range(5)))
    seen = survey([str(tmp_path / "shard.tar"), str(tmp_path / "list.csv")])
    assert (seen.files, seen.images) == (9, 9)


def test_the_draw_is_the_same_each_time_and_the_survey_with_it(tmp_path: Path) -> None:
    folder = _write(tmp_path / "pool", _tiles(32, 30))
    found = list_all([str(folder)])
    assert draw(found, 10) == draw(found, 10) != draw(found, 10, seed=1)
    kept = {"seconds", "seconds_an_image"}
    one, other = (survey([str(folder)], sample=10, workers=workers).model_dump(exclude=kept) for workers in (1, 3))
    assert one == other
    assert one["sampled"] == 10


def test_a_pool_that_is_missing_or_holds_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no"):
        survey([str(tmp_path / "missing")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no usable image") as raised:
        survey([str(tmp_path / "empty")])
    assert raised.value.found == "no file that may be an image"
    (tmp_path / "empty" / "a").write_text("words")
    with pytest.raises(InputError) as raised:
        survey([str(tmp_path / "empty")])
    assert raised.value.found == "1 files; of those looked at: 1 not_an_image"


def test_copies_count_once(tmp_path: Path) -> None:
    """The same file, the same picture in another format, and pictures that are merely alike."""
    tiles = _tiles(64, 12)
    folder = _write(tmp_path / "pool", tiles)
    seen = survey([str(folder)])
    assert (seen.images, seen.distinct, seen.copied) == (12, 12, 0.0)
    (folder / "again.png").write_bytes((folder / "0003.png").read_bytes())
    Image.fromarray(tiles[5]).save(folder / "other.jpg", quality=95)
    assert (survey([str(folder)]).images, survey([str(folder)]).distinct) == (14, 12)
    dark = [np.full((64, 64, 3), 2, np.uint8) for _ in range(10)]
    for number, pixels in enumerate(dark):
        pixels[6 * number : 6 * number + 6] = 4
    assert survey([str(_write(tmp_path / "dark", dark))]).distinct == 10


def test_copies_outside_of_the_sample_are_estimated(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    tiles = _tiles(48, 20, seed=3)
    for part in range(15):
        _write(folder / str(part), tiles)
    seen = survey([str(folder)], sample=120)
    assert seen.images == 300
    assert 19 <= seen.distinct <= 22
    different = survey([str(_write(tmp_path / "different", _tiles(48, 300, seed=4)))], sample=120)
    assert different.distinct > 270
    # One picture that comes often says nothing of the others.
    _write(tmp_path / "different" / "often", [tiles[0]] * 60)
    assert 250 < survey([str(tmp_path / "different")], sample=120).distinct <= 360
    for number in range(4):
        _write(tmp_path / "two" / str(number), tiles[:2] * 50)
    assert survey([str(tmp_path / "two")], sample=60).distinct == 2


def test_memory_of_the_largest_picture_is_by_its_kind_and_tiles_say_nothing_of_it(tmp_path: Path) -> None:
    folder, side = _write(tmp_path / "pool", _tiles(40, 6)), 1200
    large = np.tile(np.random.default_rng(0).integers(0, 255, (120, 120, 3), np.uint8), (10, 10, 1))
    alone = survey([str(folder)]).largest_bytes

    def with_large(write: Callable[[Path], object], name: str = "large.tif", **how: Any) -> float:
        write(folder / name)
        found = survey([str(folder)], **how)
        (folder / name).unlink()
        return found.largest_bytes / side**2

    plain = with_large(lambda path: tifffile.imwrite(path, large, tile=(256, 256), compression="deflate"))
    deep = with_large(lambda path: tifffile.imwrite(path, large.astype(np.uint16) * 200, photometric="rgb"))
    jpeg = with_large(lambda path: Image.fromarray(large).save(path), "large.jpg")
    assert 12 < plain < 16 and 20 < deep <= 32  # bytes a pixel
    assert jpeg < 1  # made smaller while it is decoded
    cut = {str(folder): TileConfig(side=32)}
    assert with_large(lambda path: tifffile.imwrite(path, large, tile=(256, 256)), tiles=cut) * side**2 <= alone
