from __future__ import annotations

import csv
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from dinomill.commands.embed import embed_files
from dinomill.commands.embed_each import Room
from dinomill.commands.embed_sources import Candidate
from dinomill.embeddings.file import Embeddings
from dinomill.errors import InputError, MachineError
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone
from dinomill.serving.predictor import Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2}
    preprocessing = PreprocessingConfig(image_size=28, resize=28)
    network = VisionTransformer(VisionTransformerConfig.model_validate(shape))
    save_backbone(folder, network, {SECTION: preprocessing.model_dump(mode="json")})
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    for number in range(20):
        Image.new("RGB", (28, 28), (10 * number, 0, 0)).save(made / f"{number:02d}.png")
    return made


def _left_out(output: Path) -> dict[str, str]:
    with output.with_name(f"{output.name}.left_out.csv").open(encoding="utf-8", newline="") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


def _failing(monkeypatch: pytest.MonkeyPatch, red: set[int]) -> list[int]:
    """The network has no memory for batches with images of these reds; how many batches it was given."""
    compute, batches = Predictor.tokens_of, [0]

    def tokens_of(self: Predictor, batch: torch.Tensor) -> Any:
        batches[0] += 1
        mean, std = self.preprocessing.mean[0], self.preprocessing.std[0]
        reds = {round(255 * (float(one[0, 0, 0]) * std + mean)) for one in batch}
        if reds & red:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(self, batch)

    monkeypatch.setattr(Predictor, "tokens_of", tokens_of)
    return batches


@pytest.mark.parametrize("patches", [False, True])
def test_images_with_which_the_network_failed_are_called_so_and_tried_again(
    folder: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patches: bool
) -> None:
    output, beside = tmp_path / "all.npy", tmp_path / "patches.npy" if patches else None
    with monkeypatch.context() as patched:
        _failing(patched, {30})
        embed_files([folder], output, model=model, batch_size=4, patches=beside)
        assert _left_out(output) == {"03.png": "network_failed"}
        assert len(Embeddings.load(output).paths) == 19

        def stopped(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(Embeddings, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            embed_files([folder], output, model=model, batch_size=4, patches=beside)
    batches = _failing(monkeypatch, set())
    embed_files([folder], output, model=model, batch_size=4, patches=beside)
    assert len(Embeddings.load(output).paths) == 20
    assert batches == [1]  # of the one image: the others were kept


def test_where_the_network_fails_with_everything_it_is_stopped_and_continues(
    folder: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "all.npy"
    with monkeypatch.context() as patched:
        _failing(patched, {10 * number for number in range(8, 20)})
        with pytest.raises(MachineError, match="failed with 8 images") as caught:
            embed_files([folder], output, model=model, batch_size=4)
        assert "OutOfMemoryError" in str(caught.value)
        assert not output.exists()
        with pytest.raises(MachineError, match="failed with 1 image,"):
            embed_files([folder / "09.png"], tmp_path / "one.npy", model=model, batch_size=4)
    embed_files([folder], output, model=model, batch_size=4)
    assert len(Embeddings.load(output).paths) == 20


def test_what_is_no_number_is_still_called_so(
    folder: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = Predictor.tokens_of

    def tokens_of(self: Predictor, batch: torch.Tensor) -> Any:
        tokens, vectors = compute(self, batch)
        return tokens, vectors.index_fill(0, torch.tensor([0]), float("nan"))

    monkeypatch.setattr(Predictor, "tokens_of", tokens_of)
    embed_files([folder], tmp_path / "all.npy", model=model, batch_size=10)
    assert _left_out(tmp_path / "all.npy") == {"00.png": "not_finite", "10.png": "not_finite"}


def test_a_film_of_200_gb_and_a_tiff_of_86_gb_are_named_and_left_out(folder: Path, model: str, tmp_path: Path) -> None:
    (folder / "x.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp41")
    os.truncate(folder / "x.mp4", 200 * 2**30)
    (folder / "y.bin").touch()
    os.truncate(folder / "y.bin", 200 * 2**30)
    (folder / "z.tif").write_bytes(_many_doubles(13_000, 64))
    embed_files([folder], tmp_path / "all.npy", model=model, batch_size=4)
    assert _left_out(tmp_path / "all.npy") == {
        "x.mp4": "unsupported",
        "y.bin": "too_large",
        "z.tif": "decompression_bomb",
    }
    said = (tmp_path / "all.npy.left_out.csv").read_text(encoding="utf-8")
    assert '"13,000×13,000 pixels of 64 × 8 bytes take 82,520 MB; at most 4,096 MB"' in said


def _many_doubles(side: int, samples: int) -> bytes:
    """A TIFF's header of so many pixels; its one strip is empty."""
    import io

    out = io.BytesIO()
    tifffile.imwrite(
        out,
        shape=(side, side, samples),
        dtype=np.float64,
        photometric="minisblack",
        planarconfig="contig",
        compression="zlib",
        data=iter([b"x"] * side),
        rowsperstrip=1,
    )
    return out.getvalue()


def test_large_files_are_in_memory_a_few_at_a_time(tmp_path: Path) -> None:
    room, held, most, lock = Room(100), [0], [0], threading.Lock()
    files = []
    for number in range(40):
        size = 400 if number == 7 else 40
        (tmp_path / str(number)).write_bytes(bytes(size))
        files.append(Candidate(str(tmp_path / str(number)), size, 0))

    def decode(file: Candidate) -> None:
        with room.content(file) as data:
            with lock:
                held[0] += len(data)
                most[0] = max(most[0], held[0] if file.size == 40 else 0)
                assert file.size == 40 or held[0] == 400  # alone
            time.sleep(0.002)
            with lock:
                held[0] -= len(data)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, files))
    assert most[0] == 80


def test_files_that_wait_for_the_network_are_not_in_memory(
    folder: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice a batch of them was read ahead, of whatever size."""
    opened, most = [0], [0]
    content = Room.content

    def counted(self: Room, file: Candidate) -> Any:
        import contextlib

        @contextlib.contextmanager
        def counting() -> Any:
            with content(self, file) as data:
                opened[0] += 1
                most[0] = max(most[0], opened[0])
                try:
                    yield data
                finally:
                    opened[0] -= 1

        return counting()

    monkeypatch.setattr(Room, "content", counted)
    embed_files([folder], tmp_path / "all.npy", model=model, batch_size=16)
    assert 1 <= most[0] <= 4


def test_a_file_that_went_away_is_unreadable(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="No such file"),
        Room().content(Candidate(str(tmp_path / "gone"), 5, 0)),
    ):
        pass
