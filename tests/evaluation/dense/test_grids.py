"""Patch grids: what a network says of windows, kept and found again."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinomill.errors import InputError, StorageError
from dinomill.evaluation.dense.grids import Grids, GridSettings, extract_grids
from dinomill.evaluation.dense.pixels import pixel_grid
from dinomill.evaluation.networks import Network
from dinomill.features.base import Tokens
from dinomill.features.door import open as open_features
from dinomill.images.decode import decode_image
from dinomill.images.paired import PairedPaths, find_paired
from dinomill.images.preprocess import preprocess


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, photographs: list[bytes]) -> PairedPaths:
    root = tmp_path_factory.mktemp("grids")
    for number, data in enumerate(photographs[:3]):
        with_sides = decode_image(data)[:256, : (256, 256, 400)[number]]
        for folder in ("images", "masks"):
            path = root / folder / "test" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(with_sides if folder == "images" else np.zeros(with_sides.shape[:2], np.uint8)).save(path)
    return find_paired(root, "test")


@pytest.fixture(scope="module")
def network(backbone: Path) -> Network:
    features = open_features(backbone)
    return Network(
        name="nano",
        kind="teacher",
        parameters=1,
        preprocessing=features.preprocessing,
        identity="a" * 64,
        pooling="cls",
        build=lambda device: open_features(backbone, device=str(device)),
    )


def test_grids_are_the_networks_patches_in_half_precision(
    pairs: PairedPaths, network: Network, backbone: Path, tmp_path: Path
) -> None:
    (grids,) = extract_grids(pairs, [network], "1" * 64, "test", GridSettings(tmp_path, batch_size=2))
    assert len(grids) == 3 and grids.patches.shape == (4, 8, 8, network.build(torch.device("cpu")).dim)  # type: ignore[attr-defined]
    assert [len(one) for one in grids.layouts] == [1, 1, 2]
    batch = torch.from_numpy(preprocess(decode_image(pairs.paths[1].read_bytes()), network.preprocessing))[None]
    with torch.inference_mode():
        tokens = open_features(backbone)(batch)
    assert tokens.patches is not None
    expected = tokens.patches[0].T.unflatten(1, (8, 8))
    torch.testing.assert_close(grids.of(1)[0], expected, atol=5e-3, rtol=5e-3)
    beside = grids.with_cls(1)[0]
    torch.testing.assert_close(beside[grids.dim :, 3, 4], tokens.cls[0], atol=5e-3, rtol=5e-3)


def test_nothing_is_computed_twice_and_damage_is_named(pairs: PairedPaths, network: Network, tmp_path: Path) -> None:
    settings = GridSettings(tmp_path)
    (first,) = extract_grids(pairs, [network], "1" * 64, "test", settings)

    def never(device: torch.device) -> None:
        raise AssertionError("built again")

    (again,) = extract_grids(pairs, [replace(network, build=never)], "1" * 64, "test", settings)
    np.testing.assert_array_equal(first.patches, again.patches)
    with pytest.raises(AssertionError, match="built again"):
        extract_grids(pairs, [replace(network, build=never)], "2" * 64, "test", settings)
    (folder,) = (tmp_path / "grids").iterdir()
    (folder / "patches.npy").write_bytes((folder / "patches.npy").read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read: patch grids"):
        extract_grids(pairs, [network], "1" * 64, "test", settings)


def test_networks_without_places_or_with_nan_are_refused(pairs: PairedPaths, network: Network, tmp_path: Path) -> None:
    def without(batch: torch.Tensor) -> Tokens:
        return Tokens(batch.mean(dim=(2, 3)), batch.mean(dim=(2, 3)), None)

    def broken(batch: torch.Tensor) -> Tokens:
        patches = torch.full((len(batch), 4, 3), torch.nan)
        return Tokens(patches[:, 0], patches[:, 0], patches)

    for forward, message in ((without, "no features of places"), (broken, "features that are no numbers")):
        with pytest.raises(InputError, match=message):
            extract_grids(
                pairs, [replace(network, build=lambda _, f=forward: f)], "3" * 64, "test", GridSettings(tmp_path)
            )
    assert not list((tmp_path / "grids").iterdir())


def test_a_disk_without_room_is_named_before_anything_is_written(
    pairs: PairedPaths,
    network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("dinomill.evaluation.dense.grids._SAID", 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with caplog.at_level(logging.INFO), pytest.raises(StorageError, match="do not fit on the disk"):
        extract_grids(pairs, [network], "4" * 64, "test", GridSettings(tmp_path))
    assert "Patch grids of nano" in caplog.text


@pytest.mark.parametrize("side", [8, 32, 224])
def test_raw_pixels_have_places(side: int) -> None:
    batch = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    tokens = pixel_grid(batch)
    assert tokens.patches is not None
    grid = side // max(side // 28, 1)
    assert tokens.patches.shape[1] == grid * grid
    cell = max(side // 28, 1)
    middle = tokens.patches[0].unflatten(0, (grid, grid))[2, 3]
    around = batch[0, :, cell : 4 * cell, 2 * cell : 5 * cell]
    expected = torch.nn.functional.adaptive_avg_pool2d(around, 6) if 3 * cell > 6 else around
    torch.testing.assert_close(middle, expected.flatten())


def test_grids_know_their_length() -> None:
    empty = Grids(np.zeros((0, 2, 2, 3), np.float16), np.zeros((0, 3), np.float16), (), np.zeros(1, np.int64))
    assert len(empty) == 0 and empty.dim == 3
