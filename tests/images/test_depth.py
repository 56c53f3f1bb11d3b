"""Depth maps, in the forms in which they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from dinomill.errors import InputError
from dinomill.images.depth import read_depth


def test_a_png_of_16_bits_needs_its_scale(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1500], [65535, 1]], dtype=np.uint16)).save(tmp_path / "depth.png")
    found = read_depth(tmp_path / "depth.png", 0.001)
    np.testing.assert_allclose(found, [[np.nan, 1.5], [65.535, 0.001]], rtol=1e-6)
    with pytest.raises(InputError, match=r"depth\.png holds whole numbers") as refusal:
        read_depth(tmp_path / "depth.png")
    assert "scale" in str(refusal.value)


@pytest.mark.parametrize("name", ["depth.npy", "depth.tif"])
def test_floats_are_depths_and_what_is_missing_is_nan(tmp_path: Path, name: str) -> None:
    depth = np.array([[0, 1.25, np.nan], [np.inf, -1, 80]], dtype=np.float32)
    if name.endswith("npy"):
        np.save(tmp_path / name, depth)
    else:
        tifffile.imwrite(tmp_path / name, depth)
    expected = np.array([[np.nan, 1.25, np.nan], [np.nan, np.nan, 80]], dtype=np.float32)
    np.testing.assert_array_equal(read_depth(tmp_path / name), expected)
    np.testing.assert_array_equal(read_depth(tmp_path / name, 10), expected * 10)


def test_no_depth_at_all_and_colours_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((3, 4), np.float32))
    np.save(tmp_path / "colours.npy", np.ones((4, 4, 3), np.float32))
    with pytest.raises(InputError, match=r"empty\.npy holds no depth"):
        read_depth(tmp_path / "empty.npy")
    with pytest.raises(InputError, match=r"colours\.npy is not a depth map"):
        read_depth(tmp_path / "colours.npy")
