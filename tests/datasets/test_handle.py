from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from dinomill.datasets import HandleDataset
from dinomill.errors import ConfigError, InputError
from dinomill.handles import DatasetHandle, SampleHandle


def make(folder: Path) -> HandleDataset:
    return HandleDataset(str(folder), "dinomill.handles.SampleHandle")


def test_a_saved_handle_is_read_back_as_its_type(tmp_path: Path) -> None:
    handle = SampleHandle(folder=tmp_path / "sample", made_of="0" * 64, counts={"relevant": 3})
    dataset = make(tmp_path / "sample")
    assert not dataset.exists()
    dataset.save(handle)
    assert dataset.exists()
    assert dataset.load() == handle
    assert isinstance(dataset.load(), SampleHandle)


def test_a_stage_that_has_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        make(tmp_path / "sample").load()
    assert isinstance(caught.value.__cause__, InputError)
    assert "make run ENV=NAME" in str(caught.value.__cause__)


def test_a_handle_for_another_folder_is_a_bug(tmp_path: Path) -> None:
    handle = SampleHandle(folder=tmp_path / "elsewhere", made_of="0" * 64, counts={})
    with pytest.raises(DatasetError, match="the stage wrote"):
        make(tmp_path / "sample").save(handle)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["dinomill.handles.NoSuchHandle", "pathlib.Path", "nonsense", "no.such.module.Handle"])
def test_a_wrong_class_in_the_catalog_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        HandleDataset(str(tmp_path), name)


def test_it_describes_itself(tmp_path: Path) -> None:
    dataset = HandleDataset(str(tmp_path), f"dinomill.handles.{DatasetHandle.__name__}")
    assert "DatasetHandle" in repr(dataset)
    assert dataset.folder == tmp_path
