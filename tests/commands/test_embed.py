from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinomill.commands.embed import Embeddings, embed_files
from dinomill.commands.search import search
from dinomill.errors import InputError, StorageError
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, load, save_backbone


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2}
    # No layer scale: an untrained one hides the image from the class token.
    config = VisionTransformerConfig.model_validate(shape | {"layerscale": None})
    preprocessing = PreprocessingConfig(image_size=28, resize=28)
    save_backbone(folder, VisionTransformer(config), {SECTION: preprocessing.model_dump(mode="json")})
    return str(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(5):
        picture = np.full((28, 28, 3), random.integers(0, 255, 3), dtype=np.uint8)
        picture[5:15, 3 * number : 3 * number + 9] = random.integers(0, 255, 3)
        (folder / "deep").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "deep" / f"{number}.png"), picture)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / ".hidden").write_bytes(b"not looked at")
    return folder


@pytest.mark.parametrize("name", ["all.parquet", "all.npy"])
def test_a_folder_becomes_a_file_that_can_be_searched(
    tmp_path: Path, images: Path, model: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / name
    embed_files([images], output, model=model, batch_size=4)
    printed = capsys.readouterr()
    assert "5 embeddings of width 32, 1 files left out" in printed.out
    assert "broken.png" in printed.err
    embeddings = Embeddings.load(output)
    assert [Path(path).name for path in embeddings.paths] == [f"{number}.png" for number in range(5)]
    assert embeddings.vectors.shape == (5, 32)
    assert embeddings.vectors.dtype == np.float32
    assert embeddings.model == model

    found = search(images / "deep" / "3.png", output, count=2, model=None)
    assert len(found) == 2
    assert found[0][0] == pytest.approx(1, abs=1e-5)
    assert found[0][1].endswith("3.png")
    assert found[1][0] <= found[0][0]


def test_the_batch_size_changes_nothing(tmp_path: Path, images: Path, model: str) -> None:
    for size in (1, 3):
        embed_files([images], tmp_path / f"{size}.npy", model=model, batch_size=size)
    first, second = (Embeddings.load(tmp_path / f"{size}.npy").vectors for size in (1, 3))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_format_is_refused_before_any_work(tmp_path: Path, images: Path) -> None:
    with pytest.raises(InputError, match="no known format"):
        embed_files([images], tmp_path / "all.csv", model="models:/none@none", batch_size=4)


def test_no_image_at_all_is_an_error_and_writes_nothing(tmp_path: Path, images: Path, model: str) -> None:
    with pytest.raises(InputError, match="None of the 1 files"):
        embed_files([images / "broken.png"], tmp_path / "all.npy", model=model, batch_size=4)
    assert not list(tmp_path.iterdir())


def test_a_missing_source_is_named(tmp_path: Path, model: str) -> None:
    with pytest.raises(InputError, match="nowhere"):
        embed_files([tmp_path / "nowhere"], tmp_path / "all.npy", model=model, batch_size=4)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    with pytest.raises(InputError, match="There is no file"):
        Embeddings.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="holds no embeddings"):
        Embeddings.load(path)


def test_a_model_of_another_width_is_refused(tmp_path: Path, images: Path, model: str) -> None:
    Embeddings(["a"], np.ones((1, 8), np.float32), model).save(tmp_path / "other.npy")
    with pytest.raises(InputError, match="does not fit"):
        search(images / "deep" / "0.png", tmp_path / "other.npy", count=1, model=None)


def test_weights_of_any_kind_embed(tmp_path: Path, images: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 64, "depth": 2, "num_heads": 1, "layerscale": None}
    torch.save(VisionTransformer(VisionTransformerConfig.model_validate(shape)).state_dict(), tmp_path / "vit.pth")
    config = transformers.DINOv3ViTConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, num_register_tokens=4
    )
    transformers.DINOv3ViTModel(config).save_pretrained(tmp_path / "huggingface")
    for name, width in (("vit.pth", 64), ("huggingface", 64), ("efficientnet-lite0", 1280)):
        address = name if name == "efficientnet-lite0" else str(tmp_path / name)
        embed_files([images], tmp_path / f"{name}.npy", model=address, batch_size=4)
        found = Embeddings.load(tmp_path / f"{name}.npy")
        assert (found.vectors.shape, found.model) == ((5, width), address)
        assert search(images / "deep" / "2.png", tmp_path / f"{name}.npy", count=1, model=None)[0][1].endswith("2.png")
    embed_files([images], tmp_path / "large.npy", model=str(tmp_path / "vit.pth"), batch_size=4, image_size=56)
    small, large = (Embeddings.load(tmp_path / f"{name}.npy").vectors for name in ("vit.pth", "large"))
    assert np.abs(small - large).max() > 1e-3
    for form in ("npy", "parquet"):
        index = tmp_path / f"large.{form}"
        embed_files([images], index, model=str(tmp_path / "vit.pth"), batch_size=4, image_size=56)
        assert Embeddings.load(index).image_size == 56
        assert search(images / "deep" / "2.png", index, count=1, model=None)[0][0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="patches of 7 pixels, and 30 is no multiple"):
        embed_files([images], tmp_path / "odd.npy", model=str(tmp_path / "vit.pth"), batch_size=4, image_size=30)


def test_another_network_than_the_one_that_made_the_file_is_refused(tmp_path: Path, images: Path, model: str) -> None:
    """Of the same width, it gave cosines that meant nothing, without a word."""
    other = tmp_path / "other"
    torch.manual_seed(1)
    section = {SECTION: PreprocessingConfig(image_size=28, resize=28).model_dump(mode="json")}
    save_backbone(other, VisionTransformer(load(model).config), section)
    for name in ("index.parquet", "index.npy"):
        embed_files([images], tmp_path / name, model=model, batch_size=4)
        query = images / "deep" / "0.png"
        assert search(query, tmp_path / name, count=1, model=None)[0][0] > 0.999
        assert search(query, tmp_path / name, count=1, model=model)[0][0] > 0.999
        with pytest.raises(InputError, match="is not the network that made"):
            search(query, tmp_path / name, count=1, model=str(other))


def test_the_query_that_is_no_image_is_named(tmp_path: Path, images: Path, model: str) -> None:
    embed_files([images], tmp_path / "index.parquet", model=model, batch_size=4)
    query = tmp_path / "query.png"
    query.write_text("no image", encoding="utf-8")
    with pytest.raises(InputError, match=r"query\.png cannot be used as an image"):
        search(query, tmp_path / "index.parquet", count=1, model=None)


def test_a_place_that_cannot_be_written_is_found_before_the_work(images: Path) -> None:
    with pytest.raises(StorageError, match=r"/proc/nothing\.parquet"):
        embed_files([images], Path("/proc/nothing.parquet"), model="nosuch", batch_size=4)
