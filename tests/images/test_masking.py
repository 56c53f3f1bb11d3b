from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from dinomill.images.masking import MaskingConfig, block_masks, draw_masks

Reference = Callable[[str], Mapping[str, np.ndarray[Any, Any]]]
CONFIG = MaskingConfig()


@pytest.mark.parametrize("grid", [16, 14, 8])
def test_masked_counts_are_distributed_as_the_reference(numeric_reference: Reference, grid: int) -> None:
    reference = numeric_reference("masking")
    random = np.random.default_rng(0)
    keys = [key for key in reference if key.startswith(f"{grid}/count_target")]
    assert len(keys) == 5
    for key in keys:
        target = int(key.rsplit("target", 1)[1])
        counts = block_masks(CONFIG, np.full(2000, target), grid, random).sum(axis=(1, 2))
        expected = reference[key]
        assert counts.max() <= target
        error = np.sqrt(expected.var() / len(expected) + counts.var() / len(counts))
        assert abs(counts.mean() - expected.mean()) < 4 * error + 1e-9, key


@pytest.mark.parametrize("grid", [16, 14, 8])
def test_single_blocks_are_distributed_as_the_reference(numeric_reference: Reference, grid: int) -> None:
    expected = numeric_reference("masking")[f"{grid}/single_block_hw"]
    from dinomill.images.masking import _rectangles

    _, _, height, width = _rectangles(CONFIG, np.full(2000, grid * grid // 2), grid, np.random.default_rng(1))
    fits = (height < grid) & (width < grid) & (height * width <= grid * grid // 2)
    first = fits.argmax(axis=1)[:, None]
    height, width = (np.take_along_axis(v, first, 1)[fits.any(axis=1), 0] for v in (height, width))
    for ours, theirs in (
        (height, expected[:, 0]),
        (width, expected[:, 1]),
        (height * width, expected.prod(axis=1)),
        (np.log(height / width), np.log(expected[:, 0] / expected[:, 1])),
    ):
        error = np.sqrt(theirs.var() / len(theirs) + ours.var() / len(ours))
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        assert ours.std() == pytest.approx(theirs.std(), rel=0.1)


def test_a_batch_is_masked_as_the_reference(numeric_reference: Reference) -> None:
    reference = numeric_reference("masking")
    expected = reference["16/collate_collated_masks"]
    drawn = [draw_masks(CONFIG, 32, 16, seed=0, step=step) for step in range(200)]
    for masks in drawn[:20]:
        assert masks.masks.shape == expected.shape
        assert masks.masks.any(axis=1).sum() == expected.any(axis=1).sum() == 16
        assert (masks.indices == np.flatnonzero(masks.masks)).all()
        rows = masks.indices // 256
        assert np.allclose(masks.weights, 1 / masks.masks.sum(axis=1)[rows])
        assert masks.weights.sum() == pytest.approx(16, rel=1e-5)
        # One crop in each of the sixteen bins of linspace(0.1, 0.5, 17), give or take the patches a block missed.
        shares = np.sort(masks.masks.mean(axis=1))[16:]
        edges = np.linspace(0.1, 0.5, 17)
        assert (shares > edges[:-1] - 3 / 256).all()
        assert (shares <= edges[1:]).all()
    counts = np.array([len(masks.indices) for masks in drawn])
    assert abs(counts.mean() - reference["16/collate_n_masked_patches"][0]) < 4 * counts.std() + 8
    assert counts.max() <= reference["16/collate_upperbound"]
    where = np.mean([masks.masks.any(axis=1) for masks in drawn], axis=0)
    assert np.abs(where - 0.5).max() < 5 * 0.5 / np.sqrt(200)  # which crops are masked is shuffled


def test_masks_depend_on_seed_step_and_rank_only() -> None:
    first = draw_masks(CONFIG, 16, 4, seed=1, step=9, rank=2)
    again = draw_masks(CONFIG, 16, 4, seed=1, step=9, rank=2)
    assert (first.masks == again.masks).all()
    for other in ({"seed": 2}, {"step": 10}, {"rank": 0}):
        assert (draw_masks(CONFIG, 16, 4, **{"seed": 1, "step": 9, "rank": 2, **other}).masks != first.masks).any()


@pytest.mark.parametrize("grid", [1, 2, 3, 4])
def test_small_grids_end(grid: int) -> None:
    masks = draw_masks(CONFIG, 64, grid, seed=0, step=0)
    assert masks.masks.shape == (64, grid * grid)
    assert masks.masks.sum(axis=1).max() <= grid * grid // 2


def test_no_masking() -> None:
    masks = draw_masks(MaskingConfig(fraction=0), 8, 16, seed=0, step=0)
    assert not masks.masks.any()
    assert len(masks.indices) == len(masks.weights) == 0
