"""Mosaics of photographs: exact masks, no pixel in both splits, the same files every time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from dinomill.images.masks import read_mask
from dinomill.images.paired import find_paired, read_class_names
from dinomill.sample.mosaics import lay_out_mosaics, mosaic
from dinomill.sample.photographs import band


def test_they_are_a_set_of_masks_and_the_same_every_time(tmp_path: Path) -> None:
    one = lay_out_mosaics(tmp_path / "one", train=4, test=3, side=40)
    two = lay_out_mosaics(tmp_path / "two", train=4, test=3, side=40)
    names = read_class_names(one)
    assert names is not None and len(names) == 14
    for split, count in (("train", 4), ("test", 3)):
        pairs = find_paired(one, split)
        assert len(pairs) == count and set(pairs.sizes) == {(40, 40)}
        ids = [np.unique(read_mask(path)) for path in pairs.targets]
        assert all(1 < len(one) <= 4 and one.max() < 14 for one in ids)
    assert _hashes(one) == _hashes(two)


def test_a_pixel_is_of_the_photograph_that_its_mask_names() -> None:
    names = ("coffee", "hubble", "grass")
    pixels, ids = mosaic(names, "queries", 48, np.random.default_rng(3))
    for index in np.unique(ids):
        whole = band(names[index], "queries")
        whole = whole if whole.ndim == 3 else np.repeat(whole[..., None], 3, axis=2)
        colours = {tuple(colour) for colour in whole.reshape(-1, 3)}
        assert {tuple(colour) for colour in pixels[ids == index]} <= colours


def _hashes(folder: Path) -> list[tuple[str, str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert all(Image.open(path).size for path in files if path.suffix == ".png")
    return [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
