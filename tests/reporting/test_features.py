from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dinomill.evaluation.pictures import EVENLY
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


def test_failures_are_the_queries_of_a_wrong_vote(run: Any) -> None:
    evaluation, labelled = run.handles.evaluation, Path(run.handles.labelled)
    config = run.config(Path("report"), queries=4, failures=3, neighbours=4)
    (block,) = view_neighbours(evaluation, labelled, ["teacher"], run.handles.curated, config)
    said = {row["path"]: row for row in pq.read_table(evaluation.folder / "images.parquet").to_pylist()}
    assert block.wrong == sum(row["label"] != row["teacher_knn"] for row in said.values())
    assert (len(block.rows), len(block.failures), block.queries) == (4, 3, len(said))
    for row in (*block.rows, *block.failures):
        query = said[row.query.title]
        assert (row.query.note, row.vote) == (query["label"], query["teacher_knn"])
        assert row.query.good == (query["label"] == query["teacher_knn"])
    assert not any(row.query.good for row in block.failures)


def test_an_evaluation_of_before_failures_were_kept_is_still_shown(run: Any, tmp_path: Path) -> None:
    evaluation = run.handles.evaluation.model_copy(update={"folder": tmp_path})
    table = pq.read_table(run.handles.evaluation.folder / "neighbours.parquet")
    old = table.filter(pc.equal(table["drawn"], EVENLY)).drop_columns(["drawn", "vote"])
    pq.write_table(old, tmp_path / "neighbours.parquet")
    config = run.config(Path("report"), queries=4)
    (block,) = view_neighbours(
        evaluation, Path(run.handles.labelled), ["teacher"], run.handles.curated, config
    )  # fmt: skip
    assert (len(block.rows), block.failures, block.wrong) == (4, (), None)
    assert all(row.query.good is None and row.vote is None for row in block.rows)
