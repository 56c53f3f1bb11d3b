"""The whole stage on a small messy pool of real pictures, against what was planted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dinomill.curation.config import CurationConfig
from dinomill.curation.stage import curate
from dinomill.errors import ConfigError, InputError
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.shards import Location, ShardReader
from dinomill.quality.gate import QualityError
from dinomill.storage.hashing import hash_bytes, hash_file

Configure = Callable[..., CurationConfig]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory, planted: Any) -> tuple[DatasetHandle, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("curated")
    names = ("scan", "quality", "embeddings", "duplicates", "selection", "curated", "work")
    config = CurationConfig.model_validate(
        {
            "folders": {name: root / name for name in names},
            "execution": {"executor": "inline"},
            "scan": {"files_per_task": 64},
            "embedding": {"embedder": {"image_size": 32, "precision": "float32"}, "images_per_task": 128},
            "write": {"images_per_shard": 100},
        }
    )
    dataset = curate([str(planted.pool)], {"digits": str(planted.seeds)}, str(planted.labelled), config)
    return dataset, pq.read_table(dataset.manifest).to_pylist()


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


def test_the_ledger_says_why_and_which_image_stays(curated: Any) -> None:
    _, rows = curated
    kept = {row["path"] for row in rows if row["fate"] == "kept"}
    for row in rows:
        if row["fate"] == "kept":
            assert row["reason"] is None
            continue
        assert row["reason"] and row["detail"], row
        if row["fate"].endswith("_duplicate"):
            assert row["duplicate_of"] != row["path"]
            assert row["duplicate_of"] in kept or row["duplicate_of"] in {r["path"] for r in rows}
    reasons = {row["path"]: row["reason"] for row in rows}
    assert reasons["bad/empty.png"] == "empty"
    assert reasons["bad/cut.png"] == "truncated"
    assert reasons["bad/text.jpg"] == "not_an_image"
    assert reasons["bad/pixel.png"] == "too_small"


def test_the_kept_images_are_in_the_shards_byte_for_byte(curated: Any) -> None:
    dataset, rows = curated
    assert pq.read_schema(dataset.manifest).names == MANIFEST_SCHEMA.names
    reader = ShardReader(dataset.shards)
    kept = [row for row in rows if row["fate"] == "kept"]
    assert len(kept) == dataset.images == dataset.fates["kept"]
    assert len(dataset.shards) == -(-len(kept) // 100)
    for row in kept:
        data = reader.read(Location(row["shard"], row["offset"], row["length"]))
        assert hash_bytes(bytes(data)) == row["sha256"]
    assert sum(dataset.fates.values()) == dataset.pool_images == len(rows)
    assert (dataset.channels, len(dataset.mean), len(dataset.std)) == (1, 1, 1)
    assert 0 < dataset.mean[0] < 1 and 0 < dataset.std[0] < 1


def test_the_page_shows_pictures_of_every_fate(curated: Any) -> None:
    dataset, _ = curated
    html = (dataset.folder / "curation.html").read_text()
    for fate in dataset.fates:
        assert fate.replace("_", " ") in html
    assert html.count("<img") > 50
    for section in ("flow", "sheets", "pairs", "seeds", "balance", "map"):
        assert f'id="{section}"' in html


def test_data_docs_are_built(curated: Any) -> None:
    dataset, _ = curated
    quality = dataset.folder.parent / "quality"
    assert (quality / "docs" / "index.html").is_file()
    for suite in ("files", "embeddings", "manifest"):
        checks = json.loads((quality / f"{suite}.json").read_text())["checks"]
        assert checks and all(line.startswith("passed") for line in checks)


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


def test_a_filter_leaves_out_with_its_figure_and_never_keeps_a_copy_of_what_it_left(
    planted: Any, tmp_path: Path, configure: Configure
) -> None:
    config = configure(tmp_path, filters={"min_contrast": 0.3}, balance={"levels": ()})
    dataset = curate([str(planted.pool)], None, None, config)
    rows = pq.read_table(dataset.manifest).to_pylist()
    out = [row for row in rows if row["fate"] == "filtered"]
    assert out and dataset.fates["filtered"] == len(out)
    assert all(row["contrast"] < 0.3 and row["reason"] == "too_flat" and "at least 0.3" in row["detail"] for row in out)
    assert all(row["contrast"] >= 0.3 for row in rows if row["fate"] == "kept")


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


def test_a_set_that_does_nothing_or_lies_in_the_pool_is_refused(
    planted: Any, tmp_path: Path, configure: Configure
) -> None:
    with pytest.raises(ValueError, match="asks for nothing"):
        configure(tmp_path, retrieval={"sets": {"ours": {"mode": "none"}}})
    config = configure(tmp_path, retrieval={"sets": {"ours": {"as_is": True}}})
    with pytest.raises(ConfigError, match="in the pool as well"):
        curate([str(planted.pool)], {"ours": str(planted.pool)}, None, config)


def _run(settings: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).parent / "run_curation.py"
    return subprocess.Popen([sys.executable, str(script), str(settings)], start_new_session=True)


def _kill_and_restart(planted: Any, config: CurationConfig, root: Path, kills: int, seed: int) -> DatasetHandle:
    settings = root / "settings.json"
    places = {"pool": str(planted.pool), "seeds": str(planted.seeds), "labelled": str(planted.labelled)}
    settings.write_text(json.dumps(places | {"config": config.model_dump(mode="json")}))
    moment = random.Random(seed)
    killed = 0
    while killed < kills:
        process = _run(settings)
        try:
            process.wait(timeout=moment.uniform(1.0, 8.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the workers too, as the machine's own killer would
            process.wait()
            killed += 1
        else:  # it was done before its moment came: from the beginning, so that each kill interrupts something
            shutil.rmtree(config.folders.work)
    process = _run(settings)
    assert process.wait(timeout=300) == 0
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


def test_an_empty_pool_is_a_clear_error(planted: Any, tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="no file in the sources of pool"):
        curate([str(tmp_path / "nothing")], None, None, configure(tmp_path / "out"))


def test_a_missing_seed_folder_is_a_clear_error(planted: Any, tmp_path: Path, configure: Configure) -> None:
    with pytest.raises(InputError, match="There is no"):
        curate([str(planted.pool)], {"a": str(tmp_path / "missing")}, None, configure(tmp_path / "out"))


def test_a_mostly_broken_pool_stops_before_training(tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "pool").mkdir()
    for number in range(10):
        (tmp_path / "pool" / f"{number}.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="10 of the 10 files of the pool cannot be used") as caught:
        curate([str(tmp_path / "pool")], None, None, configure(tmp_path / "out"))
    assert "not_an_image" in str(caught.value) and "quarantine.csv" in str(caught.value)


def test_settings_for_an_unknown_seed_set_are_refused(planted: Any, tmp_path: Path, configure: Configure) -> None:
    config = configure(tmp_path, retrieval={"sets": {"digit": {"coverage": 0.5}}})
    with pytest.raises(ConfigError, match="settings for digit"):
        curate([str(planted.pool)], {"digits": str(planted.seeds)}, None, config)


def test_a_failing_expectation_names_the_rows(tmp_path: Path) -> None:
    import pandas as pd

    from dinomill.curation.gates.suites import manifest_suite
    from dinomill.quality.gate import GateConfig, check_table

    rows = pd.DataFrame(
        {
            "source": ["s", "s"],
            "path": ["a.png", "b.png"],
            "sha256": ["0" * 64, "1" * 64],
            "fate": ["kept", "lost"],
            "reason": [None, "x"],
            "shard": [0, None],
            "offset": [512, None],
            "length": [10, None],
            "kept": [True, False],
        }
    )
    with pytest.raises(QualityError) as caught:
        check_table("manifest", rows, manifest_suite(), GateConfig(docs=False), folder=tmp_path, work=tmp_path / "w")
    assert "s/b.png" in str(caught.value) and "fate" in str(caught.value)
    assert "s/a.png" not in str(caught.value)


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_bytes(curated: Any, planted: Any, tmp_path: Path, configure: Configure) -> None:
    pytest.importorskip("ray")
    config = configure(tmp_path, execution={"executor": "ray", "workers": 2})
    again = curate([str(planted.pool)], {"digits": str(planted.seeds)}, str(planted.labelled), config)
    assert again.manifest_sha256 == curated[0].manifest_sha256
