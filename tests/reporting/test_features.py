from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinomill.reporting.features import colour_patches, view_neighbours, view_patches


def test_patches_that_are_alike_have_one_colour() -> None:
    random = np.random.default_rng(0)
    kinds = random.normal(size=(3, 16)) * 5
    labels = random.integers(0, 3, size=(4, 5, 5))
    tokens = kinds[labels] + random.normal(size=(4, 5, 5, 16)) * 0.01
    colours, explained = colour_patches(tokens)
    assert colours.shape == (4, 5, 5, 3)
    assert explained > 0.99
    means = [colours[labels == kind].astype(float) for kind in range(3)]
    # Three kinds of patch span two components; the third is noise.
    spans = [np.ptp(mean[:, :2], axis=0).max() for mean in means]
    assert max(spans) < 10
    assert min(np.abs(means[a].mean(0) - means[b].mean(0))[:2].max() for a, b in ((0, 1), (0, 2), (1, 2))) > 50


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 3, 2)])
def test_few_patches_or_features_are_no_error(shape: tuple[int, ...]) -> None:
    colours, _ = colour_patches(np.ones(shape, np.float16))
    assert colours.shape == (*shape[:-1], 3)


def test_what_evaluation_kept_is_shown(run: Any, output: object) -> None:
    assert run.handles.labelled is not None
    labelled, config = Path(run.handles.labelled), run.config(Path("report"), queries=3, neighbours=4, pca_images=5)
    models = ["teacher", "student-nano"]
    blocks = view_neighbours(run.handles.evaluation, labelled, models, run.handles.curated, config)
    assert [block.model for block in blocks] == ["teacher", "student nano"]
    for block in blocks:
        assert len(block.rows) == 3
        assert all(len(row.neighbours) == 4 and row.query.uri for row in block.rows)
        assert 0 <= block.hits <= 1
    patches = view_patches(run.handles.evaluation, labelled, models, run.handles.curated, config)
    assert [len(block.pairs) for block in patches] == [5, 5]
