"""The programs of `dinomill embed --backend` in the user's cache: used only as they were written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinomill import embeddings
from dinomill.commands.embed import embed_files
from dinomill.errors import StorageError
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone


@pytest.fixture
def model(tmp_path: Path) -> str:
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 1, "num_heads": 2, "layerscale": None}
    torch.manual_seed(0)
    network = VisionTransformer(VisionTransformerConfig.model_validate(shape))
    section = {SECTION: PreprocessingConfig(image_size=28, resize=28).model_dump(mode="json")}
    save_backbone(tmp_path / "model", network, section)
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (28, 28, 3), dtype=np.uint8))
    return str(tmp_path / "model")


def _embed(folder: Path, model: str) -> np.ndarray:
    # PyTorch's own: it has the same folder, and is not exported for a quarter of a minute.
    embed_files([folder / "a.png"], folder / "all.npy", model=model, batch_size=1, backend="eager")
    return embeddings.read(folder / "all.npy").vectors


def test_a_damaged_program_is_written_again(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Changed weights in the cache gave other embeddings without a word; cut ones failed for ever."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    right = _embed(tmp_path, model)
    (folder,) = (tmp_path / "cache/dinomill/programs").iterdir()
    written = folder.stat().st_mtime_ns
    np.testing.assert_array_equal(_embed(tmp_path, model), right)
    assert folder.stat().st_mtime_ns == written
    assert "written again" not in capsys.readouterr().err
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-4000] + bytes(4000), whole[: len(whole) // 2], b"", None):
        weights.unlink()
        if damaged is not None:
            weights.write_bytes(damaged)
        np.testing.assert_array_equal(_embed(tmp_path, model), right)
        assert weights.read_bytes() == whole
        said = [line for line in capsys.readouterr().err.splitlines() if "written again" in line]
        assert len(said) == 1 and "model.safetensors" in said[0]
    for damage in ("", "[]", "{}"):
        (folder / "sha256.json").write_text(damage, encoding="utf-8")
        _embed(tmp_path, model)
        assert capsys.readouterr().err.count("written again") == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        with pytest.raises(StorageError, match="cache of programs cannot be written") as failed:
            _embed(tmp_path, model)
        assert failed.value.found == f"XDG_CACHE_HOME={place}"
