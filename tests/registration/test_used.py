"""What was registered, as `dinomill embed` and `dinomill search` use it when no model is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from dinomill.commands.embed import embed_files
from dinomill.commands.search import search
from dinomill.embeddings.file import Embeddings
from dinomill.errors import InputError
from dinomill.handles import DatasetHandle, StudentsHandle
from dinomill.registration.register import register_model
from tests.exported import export
from tests.registration.conftest import Evaluated
from tests.registration.test_register import configuration


@pytest.fixture
def query(
    tmp_path: Path,
    store: str,
    teacher: object,
    students: StudentsHandle,
    evaluated: Evaluated,
    curated: DatasetHandle,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """An image in a project whose registration has run."""
    config = configuration(tmp_path, store, request.node.name)
    register_model(teacher, students, evaluated(), curated, config)  # type: ignore[arg-type]
    (tmp_path / "conf/base").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    globals_ = f"tracking_uri: {store}\nfolders:\n  registration: registration\n"
    (tmp_path / "conf/base/globals.yml").write_text(globals_, encoding="utf-8")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "photos" / "1.jpg"


def test_a_file_of_embeddings_outlives_the_next_run(query: Path, students: StudentsHandle, tmp_path: Path) -> None:
    """It named the folder of the student, which the next run fills with another network."""
    index = tmp_path / "photos.parquet"
    embed_files([query.parent], index, model=None, batch_size=4)
    assert Embeddings.load(index).model == "models:/test_a_file_of_embeddings_outlives_the_next_run/1"
    folder = students.students["small"].folder
    shutil.rmtree(folder)
    export(folder, "small", depth=1, seed=3)
    cosine, path = search(query, index, count=1, model=None)[0]
    assert cosine > 0.999 and path.endswith("1.jpg")
    with pytest.raises(InputError, match="is not the network that made") as caught:
        search(query, index, count=1, model=str(folder))
    assert "--model models:/NAME/1" in str(caught.value) and f"--output {index}" in str(caught.value)


def test_a_store_without_the_version_leaves_the_folder_and_says_so(
    query: Path, students: StudentsHandle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf/base/globals.yml").write_text(
        f"tracking_uri: sqlite:///{tmp_path}/none.db\nfolders:\n  registration: registration\n", encoding="utf-8"
    )
    embed_files([query.parent], tmp_path / "photos.npy", model=None, batch_size=4)
    assert Embeddings.load(tmp_path / "photos.npy").model == str(students.students["small"].folder)
    assert "cannot be opened" in capsys.readouterr().err
