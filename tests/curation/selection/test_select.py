"""The fate of every file: one each, the first that fits, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dinomill.curation.config import CurationConfig
from dinomill.curation.selection.select import SELECTION_SCHEMA, Ledger
from dinomill.curation.stage import curate
from dinomill.errors import InputError
from dinomill.images.manifest import Fate

Configure = Callable[..., CurationConfig]


def _rows(*numbers: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(numbers, dtype=np.int64)


def test_a_file_has_one_fate() -> None:
    ledger = Ledger(4)
    ledger.decide(_rows(0, 2), Fate.FILTERED, "too_dark", "brightness 0")
    assert ledger.open().tolist() == [False, True, False, True]
    with pytest.raises(AssertionError, match="one fate"):
        ledger.decide(_rows(1, 2), Fate.KEPT, None, None)
    assert ledger.open().tolist() == [False, True, False, True]


def test_the_ledger_as_a_table_knows_what_is_not_known() -> None:
    ledger = Ledger(5)
    ledger.decide(_rows(1), Fate.NEAR_DUPLICATE, "near_duplicate:signature", "signature distance 0.01")
    ledger.decide(_rows(3, 4), Fate.KEPT, None, None)
    ledger.duplicate_of[1], ledger.seed[3], ledger.seed_similarity[3], ledger.cluster[4] = 3, 0, 0.75, 7
    table = ledger.table(_rows(1, 3, 4), _rows(-1, 0, -1, 1, 2))
    assert table.schema == SELECTION_SCHEMA
    assert table["row"].to_pylist() == [1, 3, 4]
    assert table["fate"].to_pylist() == ["near_duplicate", "kept", "kept"]
    assert table["reason"].to_pylist() == ["near_duplicate:signature", None, None]
    assert table["duplicate_of"].to_pylist() == [3, None, None]
    assert table["seed"].to_pylist() == [None, 0, None]
    assert table["seed_similarity"].to_pylist() == [None, 0.75, None]
    assert table["embedding_row"].to_pylist() == [0, 1, 2]
    assert table["cluster"].to_pylist() == [None, None, 7]


def test_the_selection_and_the_manifest_tell_the_same(curated: Any) -> None:
    dataset, rows = curated
    selection = pq.read_table(dataset.folder.parent / "selection" / "selection.parquet")
    assert selection["fate"].to_pylist() == [row["fate"] for row in rows]
    assert {fate: selection["fate"].to_pylist().count(fate) for fate in dataset.fates} == dataset.fates
    clusters = pq.read_table(dataset.folder.parent / "selection" / "clusters.parquet")
    assert clusters.num_rows > 0


def test_when_nothing_would_be_kept_it_is_said_where_all_went(
    planted: Any, tmp_path: Path, configure: Configure
) -> None:
    config = configure(tmp_path, filters={"min_brightness": 1.0})
    with pytest.raises(InputError, match="Nothing of the pool would be kept") as caught:
        curate([str(planted.pool)], None, None, config)
    assert "filtered" in str(caught.value) and "4 quarantined" in str(caught.value)


def _as_is(planted: Any, root: Path) -> Path:
    """Three good images, a copy of one in the pool, a leak, a broken file and one that no seed asks for."""
    root.mkdir()
    own = sorted(planted.seeds.glob("*.png"))
    for number, source in enumerate(own[:3]):
        (root / f"own-{number}.png").write_bytes(source.read_bytes())
    (root / "copied.png").write_bytes((planted.pool / "a/0/0000.png").read_bytes())
    leak = next(iter(sorted(planted.labelled.rglob("*.png"))))
    (root / "leak.png").write_bytes(leak.read_bytes())
    (root / "broken.png").write_bytes(own[0].read_bytes()[:-40])
    (root / "other.jpg").write_bytes((planted.pool / "other/0.jpg").read_bytes())
    return root


def test_a_set_taken_whole_needs_no_seed_that_asks_for_it(planted: Any, tmp_path: Path, configure: Configure) -> None:
    whole = _as_is(planted, tmp_path / "whole")
    config = configure(
        tmp_path / "out", retrieval={"sets": {"ours": {"mode": "none", "as_is": True}}}, balance={"target": 60}
    )
    seeds = {"digits": str(planted.seeds), "ours": str(whole)}
    dataset = curate([str(planted.pool)], seeds, str(planted.labelled), config)
    rows = pq.read_table(dataset.manifest).to_pylist()
    ours = {row["path"]: row for row in rows if row["group"] == "seeds:ours"}
    fates = {path: (row["fate"], row["reason"]) for path, row in ours.items()}
    stays = ("kept", "as_is")
    assert fates == {
        **dict.fromkeys(("own-0.png", "own-1.png", "own-2.png", "copied.png", "other.jpg"), stays),
        "leak.png": ("evaluation_overlap", "evaluation_overlap:same_bytes"),
        "broken.png": ("quarantined", "truncated"),
    }
    assert "'ours'" in ours["own-0.png"]["detail"] and ours["own-0.png"]["shard"] is not None
    pool = {row["path"]: row for row in rows if row["group"] == "pool"}
    assert len(pool) + len(ours) == len(rows) == dataset.pool_images
    # Of a copy in the pool and one in the set, the set's is the one that stays.
    assert pool["a/0/0000.png"]["fate"] == pool["other/0.jpg"]["fate"] == "exact_duplicate"
    assert pool["a/0/0000.png"]["duplicate_of"] == "copied.png"
    assert sum(row["fate"] == "kept" for row in pool.values()) == 60  # the set does not count for the balance
    assert not any(row["group"] == "seeds:digits" for row in rows)
    assert str(whole) in dataset.sources
