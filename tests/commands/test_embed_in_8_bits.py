"""`dinomill embed --backend openvino-int8`: calibrated on a folder, compared with the network, searched with again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinomill import embeddings
from dinomill.commands.embed import embed_files
from dinomill.commands.search import search
from dinomill.errors import InputError, MachineError
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(24):
        small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:02d}.png"), cv2.resize(small, (28, 28)))
    return folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "model", seed=0)


def write(folder: Path, seed: int) -> str:
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 64, "depth": 2, "num_heads": 4, "layerscale": None}
    torch.manual_seed(seed)
    network = VisionTransformer(VisionTransformerConfig.model_validate(shape))
    save_backbone(folder, network, {SECTION: PreprocessingConfig(image_size=28, resize=28).model_dump(mode="json")})
    return str(folder)


def vectors(file: Path) -> np.ndarray:
    found = embeddings.read(file).vectors
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("backend", [None, "openvino", "eager-bfloat16"])
def test_others_are_not_calibrated(photos: Path, model: str, tmp_path: Path, backend: str | None) -> None:
    with pytest.raises(InputError, match="Only backends in 8 bits are calibrated") as refused:
        embed_files([photos], tmp_path / "a.npy", model=model, batch_size=8, backend=backend, calibration=photos)
    assert "openvino-int8" in str(refused.value.expected)


def test_what_it_needs_is_said(photos: Path, model: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")

    def embed(calibration: Path | None) -> None:
        embed_files(
            [photos], tmp_path / "a.npy", model=model, batch_size=8, backend="openvino-int8", calibration=calibration
        )

    with pytest.raises(InputError, match="8 bits have to be calibrated") as refused:
        embed(None)
    assert "--calibration FOLDER" in str(refused.value.action)
    with pytest.raises(InputError, match=r"There is no .*nowhere to calibrate"):
        embed(tmp_path / "nowhere")
    (tmp_path / "few").mkdir()
    for number in range(3):
        (tmp_path / "few" / f"{number}.png").write_bytes((photos / f"{number:02d}.png").read_bytes())
    with pytest.raises(InputError, match="so few images"):
        embed(tmp_path / "few")
    assert not list((tmp_path / "cache").rglob("*.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino-int8", "onnxruntime-int8"])
def test_it_is_near_the_network_the_same_again_and_searched_with(
    photos: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], backend: str
) -> None:
    pytest.importorskip(backend.partition("-")[0])

    def embed(name: str, backend: str | None = None, calibration: Path | None = None) -> np.ndarray:
        file = tmp_path / name
        embed_files([photos], file, model=model, batch_size=8, backend=backend, calibration=calibration)
        return vectors(file)

    own, eight = embed("own.parquet"), embed("eight.parquet", backend, photos)
    said = capfd.readouterr().err
    assert f"{backend}: on 24 images the worst cosine with the network's own embedding is" in said
    worst = float((own * eight).sum(axis=1).min())
    assert 0.98 <= worst < 0.99999 and f"{worst:.3f}" in said
    (program,) = (tmp_path / "cache/dinomill/programs").iterdir()
    written = program.stat().st_mtime_ns
    np.testing.assert_array_equal(embed("again.parquet", backend, photos), eight)
    assert program.stat().st_mtime_ns == written

    found = search(photos / "03.png", tmp_path / "eight.parquet", count=2, model=None)
    assert found[0][1].endswith("03.png") and found[0][0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="is not on this machine"):
        search(photos / "03.png", tmp_path / "eight.parquet", count=2, model=write(tmp_path / "other", seed=1))

    # Other images say other ranges: another program, and files of the two are not taken for one another's.
    (tmp_path / "half").mkdir()
    for path in sorted(photos.iterdir())[:12]:
        (tmp_path / "half" / path.name).write_bytes(path.read_bytes())
    embed("half.parquet", backend, tmp_path / "half")
    assert len(list((tmp_path / "cache/dinomill/programs").iterdir())) == 2
    identities = {embeddings.read(tmp_path / f"{name}.parquet").identity for name in ("own", "eight", "half")}
    assert len(identities) == 3

    (program / "model.int8.onnx").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is not as it was written"):
        search(photos / "03.png", tmp_path / "eight.parquet", count=2, model=None)
    np.testing.assert_array_equal(embed("mended.parquet", backend, photos), eight)


@pytest.mark.slow
def test_what_is_not_near_enough_is_refused(
    photos: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("dinomill.commands.embed_in_8_bits._LEAST_COSINE", 1.1)
    with pytest.raises(MachineError, match="not near enough"):
        embed_files(
            [photos], tmp_path / "a.npy", model=model, batch_size=8, backend="openvino-int8", calibration=photos
        )
    assert not list((tmp_path / "cache/dinomill/programs").glob("*/sha256.json"))
