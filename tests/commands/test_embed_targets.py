"""What lies where `dinomill embed` writes is replaced only when it is its own, and no image is."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dinomill.commands.embed import embed_files
from dinomill.embeddings.file import Embeddings
from dinomill.errors import InputError
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    network = VisionTransformer(VisionTransformerConfig.model_validate(shape))
    section = {SECTION: PreprocessingConfig(image_size=28, resize=28).model_dump(mode="json")}
    save_backbone(folder, network, section)
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    cv2.imwrite(str(folder / "a.png"), random.integers(0, 255, (28, 28, 3), dtype=np.uint8))
    np.save(folder / "b.npy", random.integers(0, 255, (28, 28, 3), dtype=np.uint8))
    return folder


def test_an_image_is_not_replaced(tmp_path: Path, photos: Path) -> None:
    """The images of a folder of arrays were lost to the embeddings of the rest."""
    (tmp_path / "other").symlink_to("photos")
    before = (photos / "b.npy").read_bytes()
    for output, patches in (
        (photos / "b.npy", None),
        (tmp_path / "other" / "b.npy", None),
        (tmp_path / "all.parquet", photos / "b.npy"),
    ):
        with pytest.raises(InputError, match="one of the files that are to be embedded"):
            embed_files([photos], output, model="models:/none@none", batch_size=2, patches=patches)
    assert (photos / "b.npy").read_bytes() == before
    assert sorted(path.name for path in photos.iterdir()) == ["a.png", "b.npy"]
    (photos / "all.txt").write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(InputError, match=r"all\.txt is in the way"):
        embed_files([photos / "all.txt"], photos / "all.npy", model="models:/none@none", batch_size=2)


def test_a_list_of_the_users_own_is_not_replaced(tmp_path: Path, photos: Path, model: str) -> None:
    for content in ("what I still have to sort\n", "[]\n", '{"model"\n', ""):
        (tmp_path / "photos.txt").write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=r"photos\.txt is in the way"):
            embed_files([photos], tmp_path / "photos.npy", model="models:/none@none", batch_size=2)
        assert (tmp_path / "photos.txt").read_text(encoding="utf-8") == content
    embed_files([photos], tmp_path / "photos.parquet", model=model, batch_size=2)  # needs no list


def test_one_file_by_two_names_is_refused(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "again.npy").symlink_to("all.npy")
    (tmp_path / "list.npy").symlink_to("all.txt")
    for name in ("all.npy", "again.npy", "list.npy", "photos/../all.npy"):
        with pytest.raises(InputError, match="cannot hold embeddings and patch features"):
            embed_files(
                [photos], tmp_path / "all.npy", model="models:/none@none", batch_size=2, patches=tmp_path / name
            )


def test_a_file_of_the_users_own_is_not_replaced(tmp_path: Path, photos: Path, model: str) -> None:
    """A table of somebody's own, with a column of embeddings even, was lost to the embeddings of a folder."""
    rows = pa.table({"path": ["a.png"], "embedding": [[1.0, 2.0]]})
    pq.write_table(rows, tmp_path / "mine.parquet")
    np.save(tmp_path / "mine.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "grids.npy", np.ones((3, 4), np.float32))
    (tmp_path / "notes.parquet").write_text("no table")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    for output, patches in (
        (tmp_path / "mine.parquet", None),
        (tmp_path / "mine.npy", None),
        (tmp_path / "notes.parquet", None),
        (tmp_path / "new.parquet", tmp_path / "grids.npy"),
    ):
        with pytest.raises(InputError, match=r"(mine|grids|notes)\.(npy|parquet) is in the way"):
            embed_files([photos], output, model="models:/none@none", batch_size=2, patches=patches)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    (tmp_path / "empty.parquet").touch()  # as `mktemp` leaves it
    embed_files([photos], tmp_path / "empty.parquet", model=model, batch_size=2)
    assert len(Embeddings.load(tmp_path / "empty.parquet").paths) == 2


def test_a_run_that_was_stopped_between_an_array_and_its_list_goes_on(tmp_path: Path, photos: Path, model: str) -> None:
    embed_files([photos], tmp_path / "all.npy", model=model, batch_size=2)
    (tmp_path / "all.txt").unlink()
    with pytest.raises(InputError, match="is in the way"):
        embed_files([photos], tmp_path / "all.npy", model=model, batch_size=2)
    (tmp_path / ".all.npy.unfinished").mkdir()
    embed_files([photos], tmp_path / "all.npy", model=model, batch_size=2)
    assert len(Embeddings.load(tmp_path / "all.npy").paths) == 2


def test_patches_of_another_format_are_refused_before_anything_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="written as a NumPy array"):
        embed_files(
            [tmp_path / "nowhere"],
            tmp_path / "all.npy",
            model="models:/none@none",
            batch_size=2,
            patches=tmp_path / "patches.parquet",
        )
    assert not list(tmp_path.iterdir())


def test_what_an_earlier_run_wrote_is_replaced_and_is_no_image(photos: Path, model: str) -> None:
    targets = {"all.npy": None, "all.parquet": photos / "patches.npy"}
    for _ in range(2):
        for name, patches in targets.items():
            embed_files([photos / "a.png"], photos / name, model=model, batch_size=2, patches=patches)
    for name, patches in targets.items():
        (photos / f"{name}.left_out.csv").unlink(missing_ok=True)
        others = [path for path in photos.iterdir() if path.name in ("a.png", "b.npy", name)]
        others += [patches] if patches else []
        embed_files(others, photos / name, model=model, batch_size=2, patches=patches)
        assert sorted(map(os.path.basename, Embeddings.load(photos / name).paths)) == ["a.png", "b.npy"]
        assert not (photos / f"{name}.left_out.csv").exists()
