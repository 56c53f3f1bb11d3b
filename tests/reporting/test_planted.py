from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinomill.reporting.planted import score_planted


def test_each_mistake_is_counted(run: Any) -> None:
    view = score_planted(run.handles.curated, run.sample / "planted.parquet")
    assert view is not None
    wrong = {score.kind: score.count - score.right for score in view.recall}
    assert {kind for kind, count in wrong.items() if count} == {kind.replace("_", " ") for kind in run.missed}
    assert set(wrong.values()) == {0, 1}
    precision = {score.kind: score for score in view.precision}
    kept = precision["kept"]
    # The digit and the broken file were kept; the duplicate that was kept is relevant.
    assert kept.count - kept.right == 2
    assert precision["quarantined"].share == 1
    assert precision["removed as a duplicate"].share == 1
    assert precision["left out as irrelevant"].share == 1


def test_without_a_record_there_is_no_score(run: Any, tmp_path: Path) -> None:
    assert score_planted(run.handles.curated, None) is None
    assert score_planted(run.handles.curated, tmp_path / "planted.parquet") is None


def test_a_record_of_another_pool_is_not_used(run: Any, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    other = tmp_path / "planted.parquet"
    pq.write_table(pq.read_table(run.sample / "planted.parquet").slice(5), other)
    assert score_planted(run.handles.curated, other) is None


def test_tiles_of_a_scene_are_counted_by_their_picture(run: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet as pq

    from dinomill.images.tiles import Tile

    curated, planted = run.handles.curated, run.sample / "planted.parquet"
    before = score_planted(curated, planted)
    assert before is not None
    manifest = pq.read_table(curated.manifest)
    kept = manifest.filter(pa.compute.equal(manifest["fate"], "kept")).slice(0, 1).to_pylist()[0]
    fates = ("kept", "kept", "near_duplicate", "filtered", "irrelevant")
    tiles = [kept | {"path": Tile("a/scene.tif", 32 * n, 0, 32).name, "fate": fate} for n, fate in enumerate(fates)]
    pq.write_table(
        pa.concat_tables([manifest, pa.Table.from_pylist(tiles, manifest.schema)]), tmp_path / "manifest.parquet"
    )
    truth = pq.read_table(planted)
    scene = [{"path": "a/scene.tif", "kind": "scene", "original": None, "detail": "64×64 pixels"}]
    pq.write_table(pa.concat_tables([truth, pa.Table.from_pylist(scene, truth.schema)]), tmp_path / "planted.parquet")
    view = score_planted(
        curated.model_copy(update={"manifest": tmp_path / "manifest.parquet"}), tmp_path / "planted.parquet"
    )
    assert view is not None
    (found,) = (score for score in view.recall if score.kind == "tile of a scene")
    assert (found.count, found.right) == (5, 4)
    assert [score for score in view.recall if score is not found] == list(before.recall)
    was, now = ({score.kind: score for score in one.precision} for one in (before, view))
    assert (now["kept"].count - was["kept"].count, now["kept"].right - was["kept"].right) == (2, 2)
    assert now["removed as a duplicate"] == was["removed as a duplicate"]
    assert now["left out as irrelevant"].right == was["left out as irrelevant"].right
    assert now["left out as irrelevant"].count == was["left out as irrelevant"].count + 1
