from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from dinomill.datasets import SourceDataset
from dinomill.errors import InputError


@pytest.fixture
def images(tmp_path: Path) -> str:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG")
    return str(folder)


def test_locations_come_out_as_they_were_configured(images: str) -> None:
    for locations in (images, [images], {"good": images}):
        assert SourceDataset("pool", locations).load() == locations


def test_a_uri_is_not_looked_at(images: str) -> None:
    source = SourceDataset("pool", [images, "s3://bucket/prefix"])
    assert source.load() == [images, "s3://bucket/prefix"]
    assert source.local_paths == [Path(images)]
    assert source.exists()


def test_what_is_cut_into_tiles_is_a_place_too(images: str) -> None:
    entry = {"path": images, "tiles": {"side": 32}}
    source = SourceDataset("pool", ["s3://bucket/prefix", entry])
    assert source.load() == ["s3://bucket/prefix", entry]
    assert source.local_paths == [Path(images)]
    with pytest.raises(InputError, match="does not exist"):
        SourceDataset("pool", [{"path": f"{images}/none", "tiles": {"side": 32}}]).check()


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, images: str) -> None:
    missing = tmp_path / "nowhere"
    source = SourceDataset("seeds", {"good": images, "better": str(missing)})
    assert not source.exists()
    with pytest.raises(InputError) as caught:
        source.check()
    assert str(missing) in str(caught.value)
    assert "seeds" in str(caught.value)
    assert "dinomill sample" in str(caught.value)
    with pytest.raises(DatasetError) as wrapped:
        source.load()
    assert isinstance(wrapped.value.__cause__, InputError)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        SourceDataset("pool", [str(tmp_path)]).check()


def test_nothing_configured_is_an_error_only_where_something_is_needed() -> None:
    with pytest.raises(InputError, match="No pool is configured"):
        SourceDataset("pool", []).check()
    assert SourceDataset("labelled", None, required=False).load() is None


def test_a_source_is_never_written(images: str) -> None:
    with pytest.raises(DatasetError):
        SourceDataset("pool", [images]).save([images])  # type: ignore[arg-type]
