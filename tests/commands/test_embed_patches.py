from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinomill import embeddings
from dinomill.commands.embed import embed_files
from dinomill.commands.embed_parts import Done, parts_of
from dinomill.commands.embed_sources import Candidate, LeftOut
from dinomill.commands.search import search
from dinomill.errors import InputError, StorageError
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone
from dinomill.serving.predictor import Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2, "layerscale": None}
    preprocessing = PreprocessingConfig(image_size=28, resize=28)
    model = VisionTransformer(VisionTransformerConfig.model_validate(shape))
    save_backbone(folder, model, {SECTION: preprocessing.model_dump(mode="json")})
    return str(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(21):
        cv2.imwrite(str(folder / f"{number:02d}.png"), random.integers(0, 255, (28, 28, 3), dtype=np.uint8))
    (folder / "07.png").write_bytes(b"no image")
    return folder


def test_patches_lie_in_the_rows_of_their_images(tmp_path: Path, images: Path, model: str) -> None:
    embed_files([images], tmp_path / "all.parquet", model=model, batch_size=4, patches=tmp_path / "patches.npy")
    found, patches = embeddings.read(tmp_path / "all.parquet"), np.load(tmp_path / "patches.npy", mmap_mode="r")
    assert patches.shape == (20, 4, 4, 32)
    assert patches.dtype == np.float16
    seen = list(Predictor(Path(model)).see([Path(path).read_bytes() for path in found.paths], ("embedding", "patches")))
    for number, one in enumerate(seen):
        assert not isinstance(one, InputError)
        np.testing.assert_allclose(patches[number], one["patches"], atol=2e-3)
        np.testing.assert_allclose(found.vectors[number], one["embedding"], atol=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_a_killed_run_continues_with_its_patches(tmp_path: Path, images: Path, model: str) -> None:
    code = f"""
import os, signal
from pathlib import Path
from dinomill.commands import embed_parts
from dinomill.commands.embed import embed_files
embed_parts._ROWS = 4
keep = embed_parts.keep
def killed(part, grids):
    keep(part, grids)
    if part.name == "000003.npy":
        os.kill(os.getpid(), signal.SIGKILL)
embed_parts.keep = killed
embed_files([Path({str(images)!r})], Path({str(tmp_path / "all.npy")!r}), model={model!r}, batch_size=4,
            patches=Path({str(tmp_path / "patches.npy")!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == -9
    assert not (tmp_path / "patches.npy").exists()
    kept = sorted(tmp_path.glob(".all.npy.unfinished/*/*.npy"))
    assert len(kept) == 4
    kept[1].write_bytes(kept[1].read_bytes()[:300])  # one is damaged, besides
    embed_files([images], tmp_path / "all.npy", model=model, batch_size=4, patches=tmp_path / "patches.npy")
    embed_files([images], tmp_path / "whole.npy", model=model, batch_size=4, patches=tmp_path / "whole_patches.npy")
    assert embeddings.read(tmp_path / "all.npy").paths == embeddings.read(tmp_path / "whole.npy").paths
    np.testing.assert_allclose(np.load(tmp_path / "patches.npy"), np.load(tmp_path / "whole_patches.npy"), atol=2e-3)


def test_a_part_of_files_that_are_left_out_alone_is_kept(tmp_path: Path) -> None:
    """It has no patches, and was thrown away for it: the same files were read again at every start."""
    broken = Candidate("broken.png", 1, 1)
    with pytest.raises(RuntimeError), parts_of(tmp_path / "all.npy", "one", patches=True) as parts:
        parts.begin()
        parts.add([Done(broken, LeftOut(broken.path, "truncated", "it ends early"))])
        raise RuntimeError
    with parts_of(tmp_path / "all.npy", "one", patches=True) as parts:
        assert [one.file for one in parts.begin()] == [broken]


def test_what_has_no_patches_or_no_array_is_refused_before_any_work(tmp_path: Path, images: Path, model: str) -> None:
    with pytest.raises(InputError, match="written as a NumPy array"):
        embed_files([images], tmp_path / "a.npy", model=model, batch_size=4, patches=tmp_path / "patches.parquet")
    with pytest.raises(InputError, match="cannot hold embeddings and patch"):
        embed_files([images], tmp_path / "a.npy", model=model, batch_size=4, patches=tmp_path / "a.npy")
    with pytest.raises(StorageError):
        embed_files([images], tmp_path / "a.npy", model=model, batch_size=4, patches=Path("/proc/patches.npy"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # the export alone takes a quarter of a minute
def test_a_backend_gives_the_same_within_its_bound_and_is_written_once(
    tmp_path: Path, images: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    embed_files([images], tmp_path / "eager.parquet", model=model, batch_size=4)
    embed_files([images], tmp_path / "openvino.parquet", model=model, batch_size=4, backend="openvino")
    (program,) = (tmp_path / "cache/dinomill/programs").iterdir()
    written = (program / "model.xml").stat().st_mtime_ns
    eager, found = embeddings.read(tmp_path / "eager.parquet"), embeddings.read(tmp_path / "openvino.parquet")
    np.testing.assert_allclose(found.vectors, eager.vectors, atol=1e-4)
    assert found.backend == "openvino"
    assert found.space != eager.space
    # The query is embedded in the same way, with the program that is there.
    assert search(images / "03.png", tmp_path / "openvino.parquet", count=1, model=None)[0][1].endswith("03.png")
    assert (program / "model.xml").stat().st_mtime_ns == written
    # Exported anew it may have other bytes, and is the same network.
    weights = (program / "model.bin").read_bytes()
    (program / "model.bin").write_bytes(weights[: len(weights) // 2] + bytes(len(weights) - len(weights) // 2))
    (found_again,) = search(images / "03.png", tmp_path / "openvino.parquet", count=1, model=None)
    assert found_again[0] == pytest.approx(1, abs=1e-4)


def test_a_backend_that_this_machine_lacks_is_answered_with_those_that_it_has(
    tmp_path: Path, images: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor without products in bfloat16 was to be installed."""
    monkeypatch.setattr("dinomill.models.hardware.has_fast_bf16", lambda device: False)
    with pytest.raises(InputError, match="openvino-bfloat16 cannot be used on this machine") as failed:
        embed_files([images], tmp_path / "a.npy", model=model, batch_size=4, backend="openvino-bfloat16")
    assert "no products in bfloat16" in str(failed.value.found)
    assert "eager" in str(failed.value.expected) and "bfloat16" not in str(failed.value.expected)
    assert "install" not in str(failed.value.action)


@pytest.mark.parametrize(
    ("told", "said"), [("tensorrt", "no such backend"), ("openvino-int8", "calibrated"), ("", "no such backend")]
)
def test_backends_that_are_none_are_named(tmp_path: Path, images: Path, model: str, told: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as failed:
        embed_files([images], tmp_path / "a.npy", model=model, batch_size=4, backend=told)
    assert "openvino-bfloat16" in str(failed.value.expected)


@pytest.mark.slow
def test_what_runs_in_one_way_only_takes_no_backend(tmp_path: Path, images: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    with pytest.raises(InputError, match="runs in one way only"):
        embed_files([images], tmp_path / "a.npy", model="efficientnet-lite0", batch_size=4, backend="openvino")
