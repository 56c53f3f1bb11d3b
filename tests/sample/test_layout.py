from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dinomill.errors import ConfigError, InputError
from dinomill.handles import SampleHandle
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.labelled import read_labelled
from dinomill.sample import SampleConfig, lay_out
from dinomill.sample.fashion_mnist import CLASSES, read_split

SHIPPED = Path(__file__).parents[2] / "data" / "00_shipped" / "fashion_mnist"
SMALL = {
    "source": SHIPPED,
    "originals": 600,
    "near_duplicates": 60,
    "exact_duplicates": 30,
    "digits": 20,
    "patches": 24,
    "broken": 24,
    "seeds": 50,
    "bank": 100,
    "queries": 50,
}
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


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleConfig, SampleHandle]:
    config = SampleConfig(output=tmp_path_factory.mktemp("raw") / "sample", **SMALL)
    return config, lay_out(config)


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "handle.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_file_is_written_down_and_is_what_it_is_called(small: tuple[SampleConfig, SampleHandle]) -> None:
    config, handle = small
    pool = config.output / "pool"
    planted = pq.read_table(config.output / "planted.parquet").to_pylist()
    assert {row["path"] for row in planted} == {str(p.relative_to(pool)) for p in pool.rglob("*") if p.is_file()}
    counts = Counter(row["kind"] for row in planted)
    assert counts == {
        "relevant": 600,
        "near_duplicate": 60,
        "exact_duplicate": 30,
        "digit": 20,
        "patch": 24,
        **dict.fromkeys(BROKEN, 3),
    }
    assert {kind: handle.counts[kind] for kind in counts} == counts
    assert len({Path(row["path"]).parent for row in planted}) > 20
    for row in planted:
        content = (pool / row["path"]).read_bytes()
        if row["kind"] in BROKEN:
            with pytest.raises(DecodeError) as caught:
                decode_image(content, smallest=8)
            assert caught.value.reason == BROKEN[row["kind"]], row
        else:
            pixels = decode_image(content, smallest=8)
            assert row["kind"] == "patch" or 25 <= len(pixels) <= 32


def test_duplicates_repeat_their_originals(small: tuple[SampleConfig, SampleHandle]) -> None:
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

                pixels = cv2.resize(decode_image(copy, channels=1), (28, 28), interpolation=cv2.INTER_CUBIC)
                similar.append(np.corrcoef(pixels.ravel(), decode_image(original, channels=1).ravel())[0, 1])
    assert min(similar) > 0.95
    assert len({row["original"] for row in rows.values() if row["original"]}) == 90


def test_sets_are_disjoint(small: tuple[SampleConfig, SampleHandle]) -> None:
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
    assert [len(seeds), len(bank), len(queries)] == [50, 100, 50]
    for a, b in ((pool, seeds), (pool, bank), (pool, queries), (seeds, bank), (seeds, queries), (bank, queries)):
        assert not a & b
    assert labelled[0].classes == tuple(sorted(CLASSES))
    assert (np.bincount(labelled[0].labels) == 10).all()
    assert handle.counts["labelled_train"] == 100


def test_the_same_configuration_gives_the_same_files(small: tuple[SampleConfig, SampleHandle], tmp_path: Path) -> None:
    config, handle = small
    other = config.model_copy(update={"output": tmp_path / "sample"})
    assert lay_out(other).config_hash == handle.config_hash
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
        lay_out(SampleConfig(output=tmp_path / "sample", **{**SMALL, "originals": 30_000}))
    assert "dinomill sample --full" in str(caught.value)
    assert not (tmp_path / "sample").exists()
    with pytest.raises(ConfigError, match="multiple of 10"):
        SampleConfig.parse({**SMALL, "output": tmp_path, "seeds": 55}, where="test")


def test_the_shipped_part_is_exactly_what_the_defaults_need() -> None:
    config = SampleConfig(output=Path("x"), source=SHIPPED)
    images, labels = read_split(SHIPPED, "train")
    assert len(images) == config.originals + config.seeds + config.bank
    need = np.array(config.class_counts()) + config.seeds // 10 + config.bank // 10
    assert (np.bincount(labels) == need).all()
    assert max(config.class_counts()) / min(config.class_counts()) == pytest.approx(4, rel=0.01)
    assert len({image.tobytes() for image in images}) == len(images)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 8e6


def test_the_committed_parameters_are_the_defaults() -> None:
    import yaml

    path = Path(__file__).parents[2] / "conf" / "base" / "sample" / "parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))["sample"]
    assert SampleConfig.parse({**values, "output": "x"}, where=str(path)) == SampleConfig(
        output=Path("x"), source=Path("data/00_shipped/fashion_mnist")
    )
