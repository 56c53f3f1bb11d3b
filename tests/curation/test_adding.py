"""Ten images added to a pool cost ten images, and the result is that of curating everything anew."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from dinomill.curation.config import CurationConfig
from dinomill.curation.handles import DuplicatesHandle, EmbeddingsHandle, ScanHandle
from dinomill.curation.stage import curate
from dinomill.handles import DatasetHandle
from dinomill.storage.hashing import hash_file
from tests.curation.conftest import encoded

Configure = Callable[..., CurationConfig]


class Grown(NamedTuple):
    pool: Path
    seeds: Path
    labelled: Path
    fresh: str  # the manifest's hash when everything is curated from nothing

    def curate(self, config: CurationConfig, pool: Path | None = None) -> DatasetHandle:
        return curate([str(pool or self.pool)], {"digits": str(self.seeds)}, str(self.labelled), config)


def _ten() -> list[bytes]:
    from sklearn.datasets import load_digits

    digits = load_digits().images[500:510]
    return [encoded(np.asarray(Image.fromarray((d * 15.9).astype(np.uint8)).resize((32, 32), 3))) for d in digits]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, planted: Any) -> Grown:
    """The planted pool and ten images more, curated from nothing."""
    root = tmp_path_factory.mktemp("grown")
    shutil.copytree(planted.pool, root / "pool")
    for number, data in enumerate(_ten()):
        (root / "pool" / f"ten-{number}.png").write_bytes(data)
    names = ("scan", "quality", "embeddings", "duplicates", "selection", "curated", "work")
    config = CurationConfig.model_validate(
        {
            "folders": {name: root / "fresh" / name for name in names},
            "execution": {"executor": "inline"},
            "gate": {"docs": False},
            "embedding": {"embedder": {"image_size": 32, "precision": "float32"}, "images_per_task": 128},
            "write": {"images_per_shard": 100},
        }
    )
    found = Grown(root / "pool", planted.seeds, planted.labelled, "")
    return found._replace(fresh=found.curate(config).manifest_sha256)


def _work(config: CurationConfig) -> list[dict[str, int]]:
    """What scan, embedding and comparison did."""
    folders = config.folders
    handles = (
        ScanHandle.load(folders.scan),
        EmbeddingsHandle.load(folders.embeddings),
        DuplicatesHandle.load(folders.duplicates),
    )
    return [handle.work for handle in handles]


def _settings(grown: Grown, config: CurationConfig, file: Path) -> Path:
    places = {"pool": str(grown.pool), "seeds": str(grown.seeds), "labelled": str(grown.labelled)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(places | {"config": config.model_dump(mode="json")}))
    return file


def _start(settings: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).parent / "run_curation.py"
    return subprocess.Popen([sys.executable, str(script), str(settings)], start_new_session=True)


def test_ten_more_cost_ten_and_give_what_a_fresh_run_gives(
    grown: Grown, tmp_path: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(tmp_path / "out")
    ten = sorted(grown.pool.glob("ten-*"))
    aside = tmp_path / "aside"
    aside.mkdir()
    for path in ten:
        path.rename(aside / path.name)
    grown.curate(config)
    files = sum(ScanHandle.load(config.folders.scan).groups.values())
    capsys.readouterr()
    for path in ten:
        (aside / path.name).rename(path)
    added = grown.curate(config)
    assert added.manifest_sha256 == grown.fresh
    looked, embedded, compared = _work(config)
    assert looked == {"read": 10, "decoded": 10, "taken_over": files}
    assert embedded["embedded"] == 10 and embedded["taken_over"] == files - 4
    # A row that lost or gained close neighbours may have to be compared again, as long as it is a handful.
    assert 10 <= compared["compared"] < 20 and sum(compared.values()) > 300
    said = capsys.readouterr().err
    assert f"curation: scan: 10 of {files + 10} files, {files} taken over" in said
    assert f"curation: embed: 10 of {files + 6} images, {files - 4} taken over" in said


def test_the_same_pool_again_gives_the_same_handles_and_page(
    grown: Grown, tmp_path: Path, configure: Configure
) -> None:
    config = configure(tmp_path)
    grown.curate(config)
    folders = config.folders
    results = (folders.scan, folders.embeddings, folders.duplicates, folders.selection, folders.curated)
    before = {path: hash_file(path) for folder in results for path in sorted(folder.rglob("*.*"))}
    grown.curate(config)
    assert {path: hash_file(path) for path in before} == before


@pytest.mark.slow
def test_killed_while_it_embeds_it_goes_on_with_what_is_left(
    grown: Grown, tmp_path: Path, configure: Configure
) -> None:
    embedding = {"embedder": {"image_size": 32, "precision": "float32"}, "images_per_task": 16}
    config = configure(tmp_path / "out", embedding=embedding)
    process = _start(_settings(grown, config, tmp_path / "settings.json"))
    kept = config.cache / "embeddings"
    limit = time.monotonic() + 300
    while len(list(kept.rglob("*.keys.npy"))) < 3 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (config.folders.embeddings / "handle.json").exists(), "it was done before it was killed"
    assert grown.curate(config).manifest_sha256 == grown.fresh
    _, embedded, _ = _work(config)
    assert embedded["taken_over"] >= 48 and embedded["embedded"] > 0


@pytest.mark.slow
def test_two_runs_at_once_share_a_cache(grown: Grown, tmp_path: Path, configure: Configure) -> None:
    def config(name: str) -> CurationConfig:
        made = configure(tmp_path / name)
        return made.model_copy(update={"folders": made.folders.model_copy(update={"cache": tmp_path / "cache"})})

    both = [config("one"), config("two")]
    processes = [_start(_settings(grown, one, tmp_path / f"settings-{number}.json")) for number, one in enumerate(both)]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    assert [DatasetHandle.load(one.folders.curated).manifest_sha256 for one in both] == [grown.fresh] * 2
    third = config("three")
    assert grown.curate(third).manifest_sha256 == grown.fresh
    looked, embedded, _ = _work(third)
    assert looked["read"] == looked["decoded"] == embedded["embedded"] == 0
    assert not list((tmp_path / "cache").rglob("*.tmp"))
