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
