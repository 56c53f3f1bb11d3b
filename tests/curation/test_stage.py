"""The whole stage on a small messy pool of real pictures, against what was planted."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinomill.curation.config import CurationConfig
from dinomill.curation.stage import curate
from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle
from dinomill.storage.hashing import hash_file

Configure = Callable[..., CurationConfig]


def test_every_planted_fault_has_its_fate(curated: Any, planted: Any) -> None:
    _, rows = curated
    fate = {row["path"]: row["fate"] for row in rows}
    assert set(fate) == set(planted.kind)
    for path, kind in planted.kind.items():
        if kind == "broken":
            assert fate[path] == "quarantined", path
        if kind == "leak":
            assert fate[path] == "evaluation_overlap", path
    removed = {"exact": "exact_duplicate", "near": "near_duplicate"}
    for copy, original in planted.original.items():
        fates = {fate[copy], fate[original]}
        assert removed[planted.kind[copy]] in fates, (copy, fates)
        assert "kept" not in fates or Counter((fate[copy], fate[original]))["kept"] == 1
    irrelevant = [fate[path] == "irrelevant" for path, kind in planted.kind.items() if kind == "irrelevant"]
    assert sum(irrelevant) >= 0.9 * len(irrelevant)
    alone = [p for p, kind in planted.kind.items() if kind == "relevant" and p not in planted.original.values()]
    assert sum(fate[path] == "kept" for path in alone) >= 0.9 * len(alone)


def test_the_ledger_says_why_and_which_image_stays(curated: Any, planted: Any) -> None:
    _, rows = curated
    by_path = {row["path"]: row for row in rows}
    for row in rows:
        if row["fate"] == "kept":
            assert row["reason"] is None
            continue
        assert row["reason"] and row["detail"], row
        if row["fate"].endswith("_duplicate"):
            # What stays is no copy itself: nothing is left out for the sake of what is left out as its copy.
            stays = by_path[row["duplicate_of"]]
            assert stays["fate"] not in ("exact_duplicate", "near_duplicate", "quarantined"), row
    for copy, original in planted.original.items():
        if planted.kind[copy] in ("exact", "near"):
            places = {by_path[path]["duplicate_of"] or path for path in (copy, original)}
            assert len(places) == 1, (copy, original, places)
    reasons = {row["path"]: row["reason"] for row in rows}
    assert reasons["bad/empty.png"] == "empty"
    assert reasons["bad/cut.png"] == "truncated"
    assert reasons["bad/text.jpg"] == "not_an_image"
    assert reasons["bad/pixel.png"] == "too_small"


def test_two_workers_and_other_task_sizes_give_the_same_manifest(
    curated: Any, planted: Any, tmp_path: Path, configure: Configure
) -> None:
    dataset, _ = curated
    config = configure(tmp_path, execution={"executor": "processes", "workers": 2}, scan={"files_per_task": 50})
    again = curate([str(planted.pool)], {"digits": str(planted.seeds)}, str(planted.labelled), config)
    assert again.manifest_sha256 == dataset.manifest_sha256
    assert [hash_file(shard) for shard in again.shards] == [hash_file(shard) for shard in dataset.shards]


def test_without_seeds_nothing_is_irrelevant(planted: Any, tmp_path: Path, configure: Configure) -> None:
    dataset = curate([str(planted.pool)], None, None, configure(tmp_path))
    assert "irrelevant" not in dataset.fates and "evaluation_overlap" not in dataset.fates
    assert dataset.fates["quarantined"] == 4


def test_a_set_that_does_nothing_or_lies_in_the_pool_is_refused(
    planted: Any, tmp_path: Path, configure: Configure
) -> None:
    with pytest.raises(ValueError, match="asks for nothing"):
        configure(tmp_path, retrieval={"sets": {"ours": {"mode": "none"}}})
    config = configure(tmp_path, retrieval={"sets": {"ours": {"as_is": True}}})
    with pytest.raises(ConfigError, match="in the pool as well"):
        curate([str(planted.pool)], {"ours": str(planted.pool)}, None, config)


def _run(settings: Path, fatal: int | None = None) -> int:
    """Curate in a process of its own; given a number, killed when the file of that number would get its name."""
    script = Path(__file__).parent / "run_curation.py"
    command = [sys.executable, str(script), str(settings), *([] if fatal is None else [str(fatal)])]
    return subprocess.run(command, start_new_session=True, timeout=300, check=False).returncode


def _kill_and_restart(planted: Any, config: CurationConfig, root: Path, kills: int, seed: int) -> DatasetHandle:
    settings = root / "settings.json"
    places = {"pool": str(planted.pool), "seeds": str(planted.seeds), "labelled": str(planted.labelled)}
    settings.write_text(json.dumps(places | {"config": config.model_dump(mode="json")}))
    moment = random.Random(seed)
    codes: list[int] = []
    while codes.count(-signal.SIGKILL) < kills and len(codes) < 2 * kills:
        codes.append(_run(settings, moment.randint(1, 8)))
        if codes[-1] == 0:  # it was done before: from the beginning, so that each kill interrupts something
            shutil.rmtree(config.folders.work)
    assert codes.count(-signal.SIGKILL) == kills and set(codes) <= {0, -signal.SIGKILL}, codes
    assert _run(settings) == 0
    return DatasetHandle.load(config.folders.curated)


def test_killed_and_restarted_gives_the_same_bytes(
    curated: Any, planted: Any, tmp_path: Path, configure: Configure
) -> None:
    config = configure(tmp_path, execution={"executor": "processes", "workers": 2})
    again = _kill_and_restart(planted, config, tmp_path, kills=2, seed=1)
    assert again.manifest_sha256 == curated[0].manifest_sha256


@pytest.mark.slow
def test_killed_ten_times_gives_the_same_bytes(
    curated: Any, planted: Any, tmp_path: Path, configure: Configure
) -> None:
    filters = {"max_nsfw": 0.9, "faces": {"side": 64}}  # every kind of task is among those that are interrupted
    config = configure(tmp_path / "once", filters=filters)
    once = curate([str(planted.pool)], {"digits": str(planted.seeds)}, str(planted.labelled), config)
    config = configure(tmp_path, filters=filters, execution={"executor": "processes", "workers": 2})
    again = _kill_and_restart(planted, config, tmp_path, kills=10, seed=7)
    assert again.manifest_sha256 == once.manifest_sha256 != curated[0].manifest_sha256
    assert [hash_file(s) for s in again.shards] == [hash_file(s) for s in once.shards]


def test_settings_for_an_unknown_seed_set_are_refused(planted: Any, tmp_path: Path, configure: Configure) -> None:
    config = configure(tmp_path, retrieval={"sets": {"digit": {"coverage": 0.5}}})
    with pytest.raises(ConfigError, match="settings for digit"):
        curate([str(planted.pool)], {"digits": str(planted.seeds)}, None, config)


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_bytes(curated: Any, planted: Any, tmp_path: Path, configure: Configure) -> None:
    pytest.importorskip("ray")
    config = configure(tmp_path, execution={"executor": "ray", "workers": 2})
    again = curate([str(planted.pool)], {"digits": str(planted.seeds)}, str(planted.labelled), config)
    assert again.manifest_sha256 == curated[0].manifest_sha256
