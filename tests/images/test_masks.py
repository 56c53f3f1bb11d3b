"""Masks of class ids, in the forms in which they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from dinomill.errors import InputError
from dinomill.images.masks import read_mask

IDS = np.array([[0, 1, 2], [255, 7, 3]], dtype=np.uint8)


def test_a_palette_is_read_as_ids(tmp_path: Path) -> None:
    image = Image.fromarray(IDS, "P")
    image.putpalette([value for i in range(256) for value in (255 - i, i // 2, 7)])
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), IDS)


@pytest.mark.parametrize("name", ["grey.png", "grey_as_colour.png", "deep.png", "mask.npy", "mask.tif", "wide.npy"])
def test_other_forms_hold_the_same_ids(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "grey.png":
        Image.fromarray(IDS).save(path)
    elif name == "grey_as_colour.png":
        Image.fromarray(np.repeat(IDS[..., None], 3, axis=2)).save(path)
    elif name == "deep.png":
        Image.fromarray(IDS.astype(np.uint16)).save(path)
    elif name == "mask.tif":
        tifffile.imwrite(path, IDS.astype(np.int32))
    else:
        np.save(path, IDS.astype(np.int64) if name == "mask.npy" else IDS.astype(np.float32))
    np.testing.assert_array_equal(read_mask(path), IDS)


def test_ids_above_255_are_kept(tmp_path: Path) -> None:
    ids = np.array([[0, 300], [65535, 2]], dtype=np.uint16)
    Image.fromarray(ids).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), ids)


def test_one_bit_is_zero_and_one(tmp_path: Path) -> None:
    Image.fromarray(IDS > 2).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), IDS > 2)


def test_colours_jpegs_fractions_and_negative_ids_are_refused(tmp_path: Path) -> None:
    colours = np.stack([IDS, IDS[::-1], IDS], axis=2)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    Image.fromarray(IDS).save(tmp_path / "lossy.jpg")
    np.save(tmp_path / "fractions.npy", IDS / 2)
    np.save(tmp_path / "negative.npy", IDS.astype(np.int64) - 1)
    (tmp_path / "text.png").write_text("no mask")
    for name, found in {
        "colours.png": "colours",
        "lossy.jpg": "JPEG",
        "fractions.npy": "fractions",
        "negative.npy": "-1",
        "text.png": "not_an_image",
    }.items():
        with pytest.raises(InputError, match=f"{name} is not a mask") as refusal:
            read_mask(tmp_path / name)
        assert found in str(refusal.value)
