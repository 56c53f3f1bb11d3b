from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinomill import embeddings
from dinomill.embeddings.file import Embeddings
from dinomill.embeddings.viewers import for_lightly_studio, into_fiftyone
from dinomill.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    paths = [str(tmp_path / "images" / f"{number}.png") for number in range(3)]
    Embeddings(paths, vectors, "a model", identity="abc").save(tmp_path / "photos.parquet")
    return tmp_path / "photos.parquet"


@pytest.mark.parametrize("name", ["photos.parquet", "photos.npy"])
def test_vectors_by_path(tmp_path: Path, file: Path, name: str) -> None:
    found = embeddings.read(file)
    found.save(tmp_path / name)
    again = embeddings.read(str(tmp_path / name))
    assert again.space == "abc"
    np.testing.assert_array_equal(again.by_path()[(tmp_path / "images/1.png").as_posix()], found.vectors[1])


class Samples:
    """What of FiftyOne's datasets is asked before anything is written; the real one is below, where it can run."""

    def __init__(self, paths: list[str]) -> None:
        self.paths, self.fields = paths, {}  # type: ignore[var-annotated]

    def values(self, field: str) -> list[str]:
        assert field == "filepath"
        return self.paths

    def count(self) -> int:
        return len(self.paths)

    def set_values(self, field: str, values: dict[str, object], key_field: str) -> None:
        assert key_field == "filepath"
        self.fields[field] = values


def test_other_images_than_those_of_the_file_are_named(file: Path) -> None:
    samples = Samples(["/elsewhere/a.png"])
    with pytest.raises(InputError, match="None of the 1 images") as failed:
        into_fiftyone(samples, embeddings.read(file))
    assert "images/0.png" in str(failed.value.found)
    assert not samples.fields


def test_fiftyone_takes_them(file: Path, tmp_path: Path) -> None:
    fiftyone = pytest.importorskip("fiftyone", reason="FiftyOne is not installed: it is no dependency")
    from fiftyone.core.config import FiftyOneConfigError
    from fiftyone.core.service import ServiceException
    from pymongo.errors import PyMongoError

    try:
        dataset = fiftyone.Dataset()
    except (FiftyOneConfigError, ServiceException, PyMongoError) as error:
        pytest.skip(f"FiftyOne has no database here: {type(error).__name__}")
    dataset.add_samples([fiftyone.Sample(filepath=str(tmp_path / "images" / f"{number}.png")) for number in (2, 0, 7)])
    found = embeddings.read(file)
    assert into_fiftyone(dataset, found) == 2
    np.testing.assert_array_equal(dataset.first()["embedding"], found.vectors[2])


def test_lightly_studio_takes_them(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightly_studio", reason="LightlyStudio is not installed: it is no dependency")
    found = embeddings.read(file)
    embedder = for_lightly_studio(found)
    assert embedder.embedding_space_spec().dimension == 8
    paths = [(tmp_path / "images" / f"{number}.png").as_posix() for number in (2, 9, 0)]
    result = embedder.embed_images(paths)
    assert result.kept_indices == [0, 2]
    np.testing.assert_array_equal(result.embeddings, found.vectors[[2, 0]])
