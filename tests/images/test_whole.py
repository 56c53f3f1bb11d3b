from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dinomill.errors import InputError
from dinomill.handles import DatasetHandle
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.whole import check_whole


@pytest.fixture
def dataset(digits_dataset: DatasetHandle, tmp_path: Path) -> DatasetHandle:
    folder = tmp_path / "curated"
    shutil.copytree(digits_dataset.folder, folder)
    shards = tuple(folder / path.relative_to(digits_dataset.folder) for path in digits_dataset.shards)
    return digits_dataset.model_copy(
        update={"folder": folder, "shards": shards, "manifest": folder / digits_dataset.manifest.name}
    )


def test_a_whole_dataset_is_nothing_to_say(dataset: DatasetHandle) -> None:
    check_whole(dataset, LoaderConfig())


def test_a_missing_shard_is_named(dataset: DatasetHandle) -> None:
    dataset.shards[0].unlink()
    with pytest.raises(InputError, match=f"{dataset.shards[0].name} is missing"):
        check_whole(dataset, LoaderConfig())


def test_a_cut_shard_is_named_unless_so_much_may_be_lost(dataset: DatasetHandle) -> None:
    path = dataset.shards[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    with pytest.raises(InputError, match="beyond the end of their shards") as caught:
        check_whole(dataset, LoaderConfig())
    assert path.name in str(caught.value.found)
    check_whole(dataset, LoaderConfig(max_unreadable=0.2))


def test_shards_of_something_else_are_found_by_reading_a_few(dataset: DatasetHandle) -> None:
    path = dataset.shards[0]
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(InputError, match="Most images of the dataset") as caught:
        check_whole(dataset, LoaderConfig())
    assert ".png: " in str(caught.value.found)
