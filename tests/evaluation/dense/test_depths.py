"""Depth heads and errors against scikit-learn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_percentage_error, mean_squared_error

from dinomill.evaluation.dense.depths import (
    Depths,
    Range,
    Training,
    draw_depths,
    errors_of,
    learn_bins,
    learn_ridge,
    measure_depth,
)
from dinomill.evaluation.dense.grids import Grids
from dinomill.evaluation.dense.windows import layout
from dinomill.images.paired import find_paired

SIDE, GRID, DIM, IMAGES = 32, 8, 6, 8
WITHIN = Range(0.001, 10.0)


@pytest.mark.parametrize("seed", range(5))
def test_errors_agree_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = random.uniform(0.5, 10, 400)
    predicted = true * random.uniform(0.6, 1.6, 400)
    rmse, abs_rel, delta1 = errors_of(predicted, true)
    assert rmse == pytest.approx(math.sqrt(mean_squared_error(true, predicted)))
    assert abs_rel == pytest.approx(mean_absolute_percentage_error(true, predicted))
    within = [max(p / t, t / p) < 1.25 for p, t in zip(predicted, true, strict=True)]
    assert delta1 == pytest.approx(sum(within) / 400)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Depths, Grids]:
    """Sloping floors, some of them with holes, and places that know height and slope in another basis."""
    root = tmp_path_factory.mktemp("depth")
    random = np.random.default_rng(0)
    basis = random.standard_normal((2, DIM))
    patches, cls = [], []
    for number in range(IMAGES):
        near, slope = random.uniform(1, 3), random.uniform(0.5, 5)
        depth = np.repeat(near + slope * np.linspace(0, 1, SIDE)[:, None], SIDE, axis=1).astype(np.float32)
        cells = depth.reshape(GRID, SIDE // GRID, GRID, SIDE // GRID).mean(axis=(1, 3))
        seen = np.stack([cells, np.full_like(cells, slope)], axis=2) @ basis
        patches.append(seen + 0.02 * random.standard_normal(seen.shape))
        cls.append(seen.mean(axis=(0, 1)))
        depth[random.random(depth.shape) < 0.3] = random.choice([0, np.nan])
        for folder in ("images", "depth"):
            (root / folder / "train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE)).save(root / "images" / "train" / f"{number}.png")
        np.save(root / "depth" / "train" / f"{number}.npy", depth)
    layouts = (layout((SIDE, SIDE), SIDE, "x"),) * IMAGES
    grids = Grids(np.stack(patches).astype(np.float16), np.stack(cls).astype(np.float16), layouts, np.arange(9))
    return Depths(find_paired(root, "train", "depth")), grids


def test_both_heads_read_the_depth_and_missing_pixels_count_for_nothing(scene: tuple[Depths, Grids]) -> None:
    depths, grids = scene
    drawn = draw_depths(grids, depths, WITHIN, pixels=4_000, seed=0)
    assert drawn.features.shape[1] == 2 * DIM and bool((drawn.targets > 0).all())
    settings = {"images": IMAGES, "holdout": 0.25, "seed": 0}
    training = Training(rates=(1e-2, 1e-1), steps=150, batch=128, weight_decay=1e-2)
    bins = learn_bins(drawn, WITHIN, 64, training, **settings)  # type: ignore[arg-type]
    ridge = learn_ridge(drawn, WITHIN, (1e-1, 1e-4), **settings)  # type: ignore[arg-type]
    for chosen in (bins, ridge):
        errors = measure_depth(chosen.head, grids, depths, WITHIN)
        assert errors.rmse.shape == (IMAGES,)
        assert errors.rmse.mean() < 0.35 and errors.abs_rel.mean() < 0.1 and errors.delta1.mean() > 0.95
        assert chosen.value == min(chosen.tried, key=chosen.tried.__getitem__)


def test_the_plain_head_is_scikit_learns_ridge(scene: tuple[Depths, Grids]) -> None:
    depths, grids = scene
    drawn = draw_depths(grids, depths, WITHIN, pixels=2_000, seed=0)
    chosen = learn_ridge(drawn, WITHIN, (0.01,), images=IMAGES, holdout=0.25, seed=0)
    rows = chosen.head.scaling.rows(drawn.features).double().numpy()
    reference = Ridge(alpha=0.01 * len(rows)).fit(rows, drawn.targets.numpy())
    torch.testing.assert_close(
        chosen.head.depth(torch.from_numpy(rows).float()),
        torch.from_numpy(reference.predict(rows)).float(),
        atol=1e-3,
        rtol=1e-3,
    )


def test_only_the_crop_is_scored_and_a_map_without_depth_in_it_is_nan(scene: tuple[Depths, Grids]) -> None:
    depths, grids = scene
    cropped = Depths(depths.pairs, crop=(8, 24, 0, 10))
    scored = cropped.scored(0)
    assert np.isfinite(scored[8:24, :10]).any()
    assert np.isnan(scored[:8]).all() and np.isnan(scored[24:]).all() and np.isnan(scored[:, 10:]).all()
    drawn = draw_depths(grids, depths, WITHIN, pixels=1_000, seed=0)
    head = learn_ridge(drawn, WITHIN, (0.01,), images=IMAGES, holdout=0.25, seed=0).head
    assert np.isnan(measure_depth(head, grids, depths, Range(90, 100)).rmse).all()


def test_depth_files_of_whole_numbers_are_scaled(tmp_path: Path) -> None:
    for folder in ("images", "depth"):
        (tmp_path / folder / "test").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "test" / "a.png")
    Image.fromarray(np.full((4, 4), 2_500, np.uint16)).save(tmp_path / "depth" / "test" / "a.png")
    assert Depths(find_paired(tmp_path, "test", "depth"), 0.001).read(0) == pytest.approx(2.5)
