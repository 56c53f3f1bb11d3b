"""An image is embedded once, and its features are the same whatever stands beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinomill.curation.embedding import embedders
from dinomill.curation.embedding.embed import EmbeddingConfig, Embeddings, embed_files
from dinomill.curation.embedding.embedders import EmbedderConfig, embed, find_network, identity
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.errors import InputError
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.decode import decode_image
from tests.curation.conftest import encoded

INLINE = ExecutionConfig(executor="inline")
SMALL = {"image_size": 32, "precision": "float32"}
Embed = Callable[..., EmbeddingsHandle]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Thirty pictures, one of them twice."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(30):
        small = generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        (folder / f"{number:02d}.png").write_bytes(encoded(np.kron(small, np.ones((5, 5, 1), np.uint8))))
    shutil.copy(folder / "03.png", folder / "copy.png")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Embed:
    def both(pool: Path, work: str = "work", **settings: Any) -> EmbeddingsHandle:
        return embed_files(
            _scan(pool, tmp_path, work),
            EmbeddingConfig.model_validate({"embedder": SMALL, "images_per_task": 8} | settings),
            folder=tmp_path / f"out-{work}",
            work=tmp_path / work,
            execution=INLINE,
        )

    return both


def _scan(pool: Path, root: Path, work: str = "work") -> ScanHandle:
    return scan({"pool": [str(pool)]}, ScanConfig(), folder=root / "scan", work=root / work, execution=INLINE)


def _rows(handle: EmbeddingsHandle) -> np.ndarray:
    return np.concatenate([np.load(path) for path in handle.shards])


def test_only_new_images_are_embedded_and_rows_are_those_of_a_fresh_run(pool: Path, run: Embed) -> None:
    first = run(pool)
    assert first.work == {"embedded": 30, "taken_over": 0} and first.rows == 31
    for number in range(3):
        (pool / f"a{number}.png").write_bytes(encoded(np.full((20, 20, 3), 50 * number, np.uint8)))
    added = run(pool)
    assert added.work == {"embedded": 3, "taken_over": 31}
    fresh = run(pool, "fresh", images_per_task=100)
    assert fresh.work == {"embedded": 33, "taken_over": 0}
    assert _rows(added).tobytes() == _rows(fresh).tobytes()
    (pool / "00.png").unlink()
    assert run(pool).work == {"embedded": 0, "taken_over": 33}


def test_another_place_another_name_another_task_size_cost_nothing(pool: Path, run: Embed) -> None:
    run(pool)
    for path in sorted(pool.iterdir()):
        path.rename(pool / f"{path.stem[::-1]}x.png")
    moved = pool.rename(pool.parent / "moved")
    found = run(moved, images_per_task=7)
    assert found.work == {"embedded": 0, "taken_over": 31}
    assert len(found.shards) == 5 and len(np.load(found.shards[0])) == 7


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["efficientnet-lite0", "vit"])
def test_a_row_does_not_depend_on_what_stands_beside_it(
    photographs: list[bytes], backbone: Path, precision: str, kind: str
) -> None:
    network = kind if kind != "vit" else str(backbone)
    config = EmbedderConfig.model_validate({"network": network, "image_size": 64, "precision": precision, "batch": 8})
    found = find_network(config)
    images = [decode_image(data) for data in photographs]
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (70, 50, 3), dtype=np.uint8) for _ in range(5)]
    together = embed(images, found, config)
    alone = np.concatenate([embed([image], found, config) for image in images])
    among = embed([*noise, *images], found, config)[5:]
    assert together.tobytes() == alone.tobytes() == among.tobytes()


def test_the_identity_is_all_that_changes_numbers(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(**settings: Any) -> str:
        config = EmbedderConfig.model_validate(SMALL | settings)
        return identity(find_network(config), config)

    assert of() == of()
    others = {of(image_size=64), of(precision="bfloat16"), of(batch=3), of(network=str(backbone))}
    monkeypatch.setattr(embedders, "_CODE", ("dinomill.images.pixels",))
    others.add(of())
    monkeypatch.undo()
    assert len(others | {of()}) == 6


def test_another_embedder_embeds_everything_and_the_first_ones_rows_stay(pool: Path, run: Embed) -> None:
    first = _rows(run(pool))
    larger = run(pool, embedder=SMALL | {"image_size": 64})
    assert larger.work["embedded"] == 30 and not np.array_equal(_rows(larger), first)
    again = run(pool)
    assert again.work == {"embedded": 0, "taken_over": 31} and np.array_equal(_rows(again), first)


@pytest.mark.parametrize("ending", [".npy", ".keys.npy"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damaged_rows_are_embedded_again(pool: Path, run: Embed, tmp_path: Path, ending: str, damage: str) -> None:
    first = _rows(run(pool))
    files = sorted((tmp_path / "work" / "cache" / "embeddings").rglob("*.keys.npy"))
    assert len(files) == 4
    path = files[1].with_name(files[1].name.replace(".keys.npy", ending))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # of the last row, or of its checksum
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(content[:-100] if damage == "cut" else content))
    (tmp_path / "work" / "done" / "embeddings.json").unlink()  # what the last run did
    again = run(pool)
    assert 0 < again.work["embedded"] <= 8
    assert _rows(again).tobytes() == first.tobytes()


def test_an_image_that_changes_meanwhile_is_not_kept_under_its_old_name(pool: Path, tmp_path: Path) -> None:
    found = _scan(pool, tmp_path)
    (pool / "05.png").write_bytes(encoded(np.zeros((20, 20, 3), np.uint8)))
    config = EmbeddingConfig.model_validate({"embedder": SMALL})
    with pytest.raises(InputError, match=r"05\.png changed while curation ran"):
        embed_files(found, config, folder=tmp_path / "out", work=tmp_path / "work", execution=INLINE)
    assert not list((tmp_path / "work" / "cache" / "embeddings").rglob("*.keys.npy"))


def test_no_more_than_some_hundred_shards_are_written(pool: Path, run: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinomill.curation.embedding.embed._SHARDS", 4)
    handle = run(pool, images_per_task=3)
    assert len(handle.shards) <= 4 and handle.rows == len(Embeddings(handle.shards)) == 31


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_and_what_was_embedded_stays(pool: Path, run: Embed, tmp_path: Path) -> None:
    from dinomill.errors import StorageError
    from dinomill.storage.atomic import atomic_file

    first = run(pool)
    (pool / "new.png").write_bytes(encoded(np.full((20, 20, 3), 9, np.uint8)))
    (folder,) = (tmp_path / "work" / "cache" / "embeddings").iterdir()

    def full(path: Path) -> Any:
        if path.parent == folder:  # the system answers there as it does when no block is free
            place = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            place.symlink_to("/dev/full")
        return atomic_file(path)

    patch = pytest.MonkeyPatch()
    patch.setattr("dinomill.storage.kept_rows.atomic_file", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        run(pool)
    assert "free some space" in str(caught.value)
    patch.undo()
    assert run(pool).work == {"embedded": 1, "taken_over": 31}
    assert first.rows == 31
