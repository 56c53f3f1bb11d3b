"""Images that cannot be read any more in the middle of a training."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from dinomill.errors import InputError
from dinomill.handles import DatasetHandle
from dinomill.images.batches import Batch
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.manifest import read_kept
from dinomill.images.substitutes import Tally, Unreadable
from tests.images.conftest import write_dataset
from tests.images.test_loader import load, same

HALF = LoaderConfig(max_unreadable=0.5)
Make = Callable[..., DatasetHandle]


@pytest.fixture
def handle(tmp_path: Path) -> DatasetHandle:
    """150 images in three shards, each known by its mean."""
    camera = data.camera()
    return write_dataset(tmp_path, [camera[i : i + 28, 2 * i : 2 * i + 28] for i in range(150)])


def damage(handle: DatasetHandle, rows: list[int], what: str = "bytes") -> None:
    """Make images unreadable: by overwriting them, by cutting their shard, by taking it away."""
    kept = read_kept(handle.manifest)
    for row in rows:
        path = handle.shards[int(kept.shards[row])]
        if what == "bytes":
            with path.open("r+b") as file:
                file.seek(int(kept.offsets[row]))
                file.write(b"x" * int(kept.lengths[row]))
        elif what == "cut":
            os.truncate(path, int(kept.offsets[row]) + 10)
        else:
            path.unlink()


def lost(batches: list[Batch]) -> set[int]:
    return {one.row for batch in batches for one in batch.unreadable}


def test_others_take_their_places_the_same_for_any_workers_and_after_a_resume(handle: DatasetHandle) -> None:
    sound = list(load(handle, steps=20))
    damage(handle, [7, 8, 90])
    configs = [
        HALF.model_copy(update=update)
        for update in ({"workers": 1}, {"workers": 3, "prefetch": 4}, {"workers": 2, "kind": "processes"})
    ]
    one, three, processes = (list(load(handle, steps=20, loader=config)) for config in configs)
    resumed = list(load(handle, start_step=11, steps=9, loader=HALF))
    assert lost(one) == {7, 8, 90}
    assert all(same(a, b) for a, b in zip(one, three, strict=True))
    assert all(same(a, b) for a, b in zip(one, processes, strict=True))
    assert all(same(a, b) for a, b in zip(one[11:], resumed, strict=True))
    for before, after in zip(sound, one, strict=True):
        changed = before.indices != after.indices
        assert int(changed.sum()) == len(after.unreadable)
        # The rest of the batch is what it was, masks too.
        keep = (~changed).repeat(2)
        assert torch.equal(before.global_crops[keep], after.global_crops[keep])
        assert torch.equal(before.masks, after.masks)
        assert {one.instead for one in after.unreadable} == set(after.indices[changed].tolist())
    # In every epoch another image comes instead.
    assert len({one.instead for batch in one for one in batch.unreadable if one.row == 7}) > 1


def test_a_substitute_comes_with_its_own_crops(
    dataset: Make, photos: list[np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    large = [np.asarray(Image.fromarray(photo).resize((700, 500))) for photo in photos]
    handle = write_dataset(tmp_path, [data.camera()[:40, :200], *[x[..., 0] for x in large]], "JPEG")
    damage(handle, [0])
    for backend in ("opencv", "batched"):
        config = LoaderConfig(max_unreadable=0.5, backend=backend)
        batches = list(load(handle, batch_size=6, steps=4, loader=config))
        assert lost(batches) == {0}
        for batch in batches:
            assert 0 not in batch.indices
            assert batch.global_crops.isfinite().all() and float(batch.global_crops.std()) > 0.1


@pytest.mark.parametrize("what", ["cut", "gone"])
def test_a_shard_that_is_cut_or_goes_while_it_is_read(handle: DatasetHandle, what: str) -> None:
    with load(handle, steps=20, loader=HALF.model_copy(update={"workers": 1, "cache_mb": 0})) as loader:
        batches = []
        for number, batch in enumerate(loader):
            if number == 3:
                damage(handle, [120], what)
            batches.append(batch)
    assert len(batches) == 20
    if what == "cut":
        assert lost(batches) <= set(range(120, 150)) and len(lost(batches)) > 20
    else:
        assert not lost(batches)  # an open file outlives its name
        handle.shards[0].unlink()
        with pytest.raises(InputError, match="is missing"):
            load(handle)


def test_they_are_named_once_and_counted(handle: DatasetHandle, caplog: pytest.LogCaptureFixture) -> None:
    damage(handle, [7, 8])
    with caplog.at_level(logging.WARNING):
        loader = load(handle, steps=30, loader=HALF)
        batches = list(loader)
    lines = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(lines) == 2
    assert all("7.png" in line or "8.png" in line for line in lines)
    assert "not_an_image" in lines[0] and "takes its place" in lines[0] and "at most 75" in lines[1]
    assert loader.tally.replaced == sum(len(batch.unreadable) for batch in batches) >= 5
    assert set(loader.tally.state()) == {7, 8}


def test_beyond_the_limit_training_stops_with_a_message(handle: DatasetHandle) -> None:
    damage(handle, [1, 2, 3])
    list(load(handle, steps=20, loader=LoaderConfig(max_unreadable=0.02)))  # three are allowed
    with pytest.raises(InputError) as caught:
        list(load(handle, steps=20, loader=LoaderConfig(max_unreadable=0.0199)))
    text = str(caught.value)
    assert "like 2 others" in text and "at most 2 unreadable images: `loader.max_unreadable` is 0.0199 of 150" in text
    assert "not_an_image" in text and "dvc pull" in text


def test_what_a_continued_run_knew_counts() -> None:
    tally = Tally(100, 0.02, {5: "truncated", 6: "truncated"})
    tally.add([Unreadable(5, "5.png", "truncated", 9, "9.png")], step=8)
    assert tally.replaced == 1
    with pytest.raises(InputError, match=r"7\.png cannot be read from its shard any more, like 2 others"):
        tally.add([Unreadable(7, "7.png", "corrupt", 9, "9.png")], step=9)


def test_when_nothing_can_be_read_it_ends(handle: DatasetHandle) -> None:
    damage(handle, list(range(150)))
    with pytest.raises(InputError, match="nor can 100 others"):
        next(iter(load(handle, loader=LoaderConfig(max_unreadable=1.0))))


def test_an_image_of_another_size_is_no_longer_the_one(tmp_path: Path) -> None:
    camera = data.camera()
    handle = write_dataset(tmp_path / "a", [camera[:64, i : i + 64] for i in range(8)])
    other = write_dataset(tmp_path / "b", [camera[: 40 if i == 3 else 64, i : i + 64] for i in range(8)])
    mixed = handle.model_copy(update={"shards": other.shards})
    kept, theirs = read_kept(handle.manifest), read_kept(other.manifest)
    if not (kept.offsets == theirs.offsets).all():
        import pyarrow.parquet as pq

        table = pq.read_table(handle.manifest)
        from_other = pq.read_table(other.manifest)
        for name in ("offset", "length"):
            table = table.set_column(table.column_names.index(name), name, from_other[name])
        pq.write_table(table, handle.manifest)
    batches = list(load(mixed, batch_size=8, steps=2, loader=HALF))
    assert lost(batches) == {3}
    assert "64×40 pixels, not 64×64" in batches[0].unreadable[0].reason


def test_in_a_mixture_they_come_from_the_same_part() -> None:
    from dinomill.images.mixture import MixedSampler

    sampler = MixedSampler((np.array([0, 2, 4]), np.array([1, 3, 5])), (1, 3), 4, 0)
    assert list(sampler.alike(2)) == [0, 2, 4] and list(sampler.alike(5)) == [1, 3, 5]
