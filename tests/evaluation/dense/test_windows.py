"""Windows over images of any shape, and maps back to their size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from dinomill.errors import InputError
from dinomill.evaluation.dense.windows import cut, full_size, layout, most_likely, sample
from dinomill.images.preprocess import PreprocessingConfig


def test_a_square_is_one_window_and_a_panorama_is_covered_without_gaps() -> None:
    assert len(layout((300, 300), 64, "x")) == 1
    wide = layout((100, 500), 64, "x")
    assert (wide.height, wide.width) == (64, 320)
    assert wide.lefts[0] == 0 and wide.lefts[-1] == 320 - 64
    assert max(np.diff(wide.lefts)) <= 64 * 2 / 3 + 1
    with pytest.raises(InputError, match="too elongated"):
        layout((10, 10_000), 64, "a strip")


def test_windows_are_parts_of_the_resized_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    config = PreprocessingConfig.square(40, (0.0,) * 3, (1 / 255,) * 3)
    windows = layout((40, 90), 40, "x")
    inputs = cut(pixels, windows, config)
    assert inputs.shape == (len(windows), 3, 40, 40)
    for (top, left), one in zip(windows.corners, inputs, strict=True):
        np.testing.assert_allclose(one.transpose(1, 2, 0), pixels[top : top + 40, left : left + 40], atol=1e-2)


def test_points_hold_what_upsampling_gives() -> None:
    maps = torch.randn(1, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    windows = layout((63, 63), 28, "x")
    whole = functional.interpolate(maps, size=(63, 63), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(full_size(maps, windows, (63, 63)), whole)
    y, x = (axis.ravel() for axis in np.mgrid[:63, :63])
    found = sample(maps, windows.place(y, x, (63, 63)))
    torch.testing.assert_close(found, whole.flatten(1).T, atol=1e-5, rtol=1e-5)


def test_overlapping_windows_that_agree_give_the_map_that_they_are_cut_from() -> None:
    # A plane is the same seen from every window, but for the half places at a window's border.
    windows = layout((28, 70), 28, "x")
    centres = (np.arange(7) + 0.5) * 4
    maps = torch.stack(
        [torch.from_numpy(np.add.outer(top + centres, 3 * (left + centres)))[None] for top, left in windows.corners]
    ).float()
    whole = full_size(maps, windows, (28, 70))[0].numpy()
    expected = np.add.outer(np.arange(28) + 0.5, 3 * (np.arange(70) + 0.5))
    np.testing.assert_allclose(whole[4:-4, 4:-4], expected[4:-4, 4:-4], atol=6)
    inner = sample(maps, windows.place(np.array([14, 14]), np.array([20, 50]), (28, 70))).ravel()
    np.testing.assert_allclose(inner, [14.5 + 3 * 20.5, 14.5 + 3 * 50.5], atol=1e-3)


def test_classes_a_few_at_a_time_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 11, 5, 5, generator=torch.Generator().manual_seed(1))
    windows = layout((50, 100), 40, "x")
    assert len(windows) == 3
    whole = full_size(logits, windows, (50, 100)).argmax(dim=0)
    monkeypatch.setattr("dinomill.evaluation.dense.windows._AT_ONCE", 4 * 50 * 100)
    assert torch.equal(most_likely(logits, windows, (50, 100)), whole)
