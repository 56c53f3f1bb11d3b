from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dinomill.commands.stages import sample_config
from dinomill.errors import ConfigError, InputError, MachineError
from dinomill.handles import SampleHandle
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.labelled import read_labelled
from dinomill.sample import SampleConfig, lay_out, photographs
from dinomill.sample.fashion_mnist import read_split
from dinomill.sample.photographs import (
    _FILES,
    MIN_CONTRAST,
    NAMES,
    SIDE,
    photograph,
    scene,
    seen_otherwise,
    tiles,
)

SHIPPED = Path(__file__).parents[2] / "data" / "00_shipped" / "fashion_mnist"
COUNTS = {
    "source": SHIPPED,
    "originals": 600,
    "near_duplicates": 60,
    "exact_duplicates": 30,
    "digits": 20,
    "broken": 24,
}
SMALL = {**COUNTS, "garments": 10, "drawings": 12, "seeds": 70, "bank": 140, "queries": 70}
GARMENTS = {**COUNTS, "kind": "garments", "scenes": 0, "garments": 0, "drawings": 0, "patches": 24}
GARMENTS |= {"seeds": 50, "bank": 100, "queries": 50}
BROKEN = {
    "truncated_png": "truncated",
    "truncated_jpeg": "truncated",
    "corrupt_png": "corrupt",
    "text": "not_an_image",
    "error_page": "not_an_image",
    "noise": "not_an_image",
    "empty": "empty",
    "one_pixel": "too_small",
}


Laid = tuple[SampleConfig, SampleHandle]


@pytest.fixture(scope="module", params=[SMALL, GARMENTS], ids=["photographs", "garments"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Laid:
    config = SampleConfig(output=tmp_path_factory.mktemp("raw") / "sample", **request.param)
    return config, lay_out(config)


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "handle.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_file_is_written_down_and_is_what_it_is_called(small: Laid) -> None:
    config, handle = small
    pool = config.output / "pool"
    planted = pq.read_table(config.output / "planted.parquet").to_pylist()
    places = {str(p.relative_to(pool)) for p in pool.rglob("*") if p.is_file()}
    scenes = {path.name for path in (config.output / "scenes").glob("*")}
    assert {row["path"] for row in planted} == places | scenes
    counts = Counter(row["kind"] for row in planted)
    irrelevant = {"garment": 10, "drawing": 12, "scene": 2} if config.scenes else {"patch": 24}
    assert counts == {
        "relevant": 600,
        "near_duplicate": 60,
        "exact_duplicate": 30,
        "digit": 20,
        **irrelevant,
        **dict.fromkeys(BROKEN, 3),
    }
    assert {kind: handle.counts[kind] for kind in counts} == counts
    assert len({Path(row["path"]).parent for row in planted}) > 20
    for row in planted:
        if row["kind"] == "scene":
            assert min(decode_image((config.output / "scenes" / row["path"]).read_bytes()).shape[:2]) >= 500
            continue
        content = (pool / row["path"]).read_bytes()
        if row["kind"] in BROKEN:
            with pytest.raises(DecodeError) as caught:
                decode_image(content, smallest=8)
            assert caught.value.reason == BROKEN[row["kind"]], row
        else:
            pixels = decode_image(content, smallest=8)
            assert row["kind"] in ("patch", "drawing") or 25 <= len(pixels) <= 36


def test_duplicates_repeat_their_originals(small: Laid) -> None:
    config, _ = small
    pool = config.output / "pool"
    rows = {row["path"]: row for row in pq.read_table(config.output / "planted.parquet").to_pylist()}
    similar = []
    for row in rows.values():
        if row["kind"].endswith("duplicate"):
            assert rows[row["original"]]["kind"] == "relevant"
            copy, original = (pool / row["path"]).read_bytes(), (pool / row["original"]).read_bytes()
            assert (copy == original) == (row["kind"] == "exact_duplicate")
            if row["kind"] == "near_duplicate":
                assert row["detail"]
                import cv2

                pixels = decode_image(original, channels=1)
                again = cv2.resize(decode_image(copy, channels=1), pixels.shape[:2], interpolation=cv2.INTER_CUBIC)
                similar.append(np.corrcoef(again.ravel(), pixels.ravel())[0, 1])
    assert min(similar) > 0.85  # a tile of little contrast, in JPEG of quality 50
    assert np.median(similar) > 0.98
    assert len({row["original"] for row in rows.values() if row["original"]}) == 90


def test_sets_are_disjoint(small: Laid) -> None:
    config, handle = small
    planted = pq.read_table(config.output / "planted.parquet").to_pylist()
    pool = {
        decode_image((config.output / "pool" / row["path"]).read_bytes(), channels=1).tobytes()
        for row in planted
        if row["kind"] == "relevant" and row["path"].endswith("png")
    }
    seeds = {decode_image(path.read_bytes(), channels=1).tobytes() for path in (config.output / "seeds").iterdir()}
    labelled = [read_labelled(config.output / "labelled", split, channels=1) for split in ("train", "test")]
    bank, queries = ({image.tobytes() for image in part.images} for part in labelled)
    assert [len(seeds), len(bank), len(queries)] == [config.seeds, config.bank, config.queries]
    for a, b in ((pool, seeds), (pool, bank), (pool, queries), (seeds, bank), (seeds, queries), (bank, queries)):
        assert not a & b
    assert labelled[0].classes == tuple(sorted(config.classes))
    assert (np.bincount(labelled[0].labels) == 10).all()
    assert handle.counts["labelled_train"] == config.bank


@pytest.mark.parametrize("name", NAMES)
def test_bands_share_no_pixel_and_their_tiles_show_something(name: str) -> None:
    whole = photograph(name)
    bands = [tiles(name, band) for band in ("pool", "bank", "queries")]
    columns = [set() for _ in bands]
    for band, used in zip(bands, columns, strict=True):
        for _, x in band.places:
            used.update(range(x, x + SIDE))
        shown = band.cut(0)
        assert shown.shape[:2] == (SIDE, SIDE)
        grey = shown if shown.ndim == 2 else shown @ np.array([0.299, 0.587, 0.114])
        assert grey.std() >= MIN_CONTRAST * 0.99
    assert not (columns[0] & columns[1] or columns[0] & columns[2] or columns[1] & columns[2])
    assert max(columns[0]) < scene(name).shape[1] < whole.shape[1]


def test_a_seed_of_a_scene_is_none_of_the_tiles_that_curation_cuts(small: Laid) -> None:
    config, _ = small
    seeds = {decode_image(path.read_bytes(), channels=3).tobytes() for path in (config.output / "seeds").iterdir()}
    for path in (config.output / "scenes").glob("*"):
        whole = decode_image(path.read_bytes())
        height, width = whole.shape[:2]
        for y in range(0, height - SIDE + 1, SIDE):
            for x in range(0, width - SIDE + 1, SIDE):
                assert whole[y : y + SIDE, x : x + SIDE].tobytes() not in seeds


def test_queries_are_seen_otherwise() -> None:
    """Mirrored in half of the cases, and of another brightness, so that no tile is matched by its pixels alone."""
    random = np.random.default_rng(0)
    tile = tiles("astronaut", "bank").cut(7)
    seen = [seen_otherwise(tile, random) for _ in range(200)]
    ratio = np.array([one.mean() / tile.mean() for one in seen])
    assert 0.6 < ratio.min() < 0.75 < 1.2 < ratio.max() <= 1.51
    dark = [one for one, gain in zip(seen, ratio, strict=True) if gain < 1]
    straight = sum(np.corrcoef(one.ravel(), tile.ravel())[0, 1] > 0.99 for one in dark)
    mirrored = sum(np.corrcoef(one.ravel(), tile[:, ::-1].ravel())[0, 1] > 0.99 for one in dark)
    assert straight + mirrored == len(dark)
    assert 0.3 < mirrored / len(dark) < 0.7


def test_the_same_configuration_gives_the_same_files(small: Laid, tmp_path: Path) -> None:
    config, handle = small
    other = config.model_copy(update={"output": tmp_path / "sample"})
    assert lay_out(other).made_of == handle.made_of
    assert tree(other.output) == tree(config.output)
    shuffled = config.model_copy(update={"output": tmp_path / "other", "seed": 1})
    lay_out(shuffled)
    assert tree(shuffled.output) != tree(config.output)


def test_it_is_laid_out_once_and_again_when_something_is_missing(tmp_path: Path) -> None:
    config = SampleConfig(output=tmp_path / "sample", **SMALL)
    handle = lay_out(config)
    before = tree(config.output)
    stamp = (config.output / "handle.json").stat().st_mtime_ns
    assert lay_out(config) == handle
    assert (config.output / "handle.json").stat().st_mtime_ns == stamp
    victim = next(path for path in (config.output / "pool").rglob("*") if path.is_file())
    victim.unlink()
    lay_out(config)
    assert tree(config.output) == before
    changed = config.model_copy(update={"digits": 5})
    assert lay_out(changed).counts["digit"] == 5


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "sample"
    mine.mkdir()
    (mine / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="something else than a sample") as caught:
        lay_out(SampleConfig(output=mine, **SMALL))
    assert caught.value.found == "holiday.jpg"
    assert (mine / "holiday.jpg").read_bytes() == b"precious"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dinomill.sample.layout as module

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_labelled", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lay_out(SampleConfig(output=tmp_path / "sample", **SMALL))
    assert list(tmp_path.iterdir()) == []


def test_asking_for_too_much_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more images of the class") as caught:
        lay_out(SampleConfig(output=tmp_path / "sample", **{**GARMENTS, "originals": 30_000}))
    assert "sample.fetch" in str(caught.value)
    with pytest.raises(ConfigError, match="more tiles of the pool of"):
        lay_out(SampleConfig(output=tmp_path / "sample", **{**SMALL, "originals": 30_000}))
    assert not (tmp_path / "sample").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 55}, "multiple of 14"),
        ({"kind": "garments"}, "garments is not for a sample of garments: set it to 0"),
        ({"patches": 3}, "patches is not for a sample of photographs: set it to 0"),
        ({"fetch": True}, "fetch is not for a sample of photographs: set it to False"),
        ({"near_duplicates": 700}, "must not exceed originals"),
    ],
)
def test_a_contradictory_configuration_is_refused(changes: dict[str, object], said: str) -> None:
    values = {**SMALL, "seeds": 70, "bank": 140, "queries": 70, "output": "x", **changes}
    if "kind" in changes:
        values |= {"seeds": 50, "bank": 100, "queries": 50}
    with pytest.raises(ConfigError, match=said):
        SampleConfig.parse(values, where="test")


def test_the_commonest_class_has_four_times_the_rarest() -> None:
    config = SampleConfig(output=Path("x"), source=SHIPPED)
    for among in (None, 12, 13):
        counts = config.class_counts(among)
        assert len(counts) == (among or 14)
        assert sum(counts) == config.originals
        assert max(counts) / min(counts) == pytest.approx(4, rel=0.03)


def test_what_ships_is_small_and_repeats_nothing() -> None:
    images, _ = read_split(SHIPPED, "train")
    assert len({image.tobytes() for image in images}) == len(images)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 8e6


def test_every_photograph_lies_in_a_wheel() -> None:
    """None of them is one that its package would fetch."""
    from importlib.metadata import files

    listed = {str(path) for package in ("scikit-image", "scikit-learn") for path in files(package) or ()}
    for package, name in _FILES.values():
        folder = "skimage/data" if package == "skimage" else "sklearn/datasets/images"
        assert f"{folder}/{name}" in listed


def test_a_photograph_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph.cache_clear()
    monkeypatch.setattr(photographs, "_folder", lambda package: tmp_path)
    with pytest.raises(MachineError, match="photograph brick is not there") as caught:
        photograph("brick")
    assert "make setup" in str(caught.value)


def test_the_committed_parameters_are_the_defaults() -> None:
    import yaml

    path = Path(__file__).parents[2] / "conf" / "base" / "sample" / "parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))["sample"]
    assert SampleConfig.parse({**values, "output": "x"}, where=str(path)) == SampleConfig(
        output=Path("x"), source=Path("data/00_shipped/fashion_mnist")
    )


def test_the_garments_of_the_environment_fashion_are_all_of_them() -> None:
    config = sample_config("fashion")
    assert config.kind == "garments"
    assert config.originals + config.seeds + config.bank == 60_000
    assert config.queries == 10_000
    assert config.output == Path("data/01_raw/fashion")
