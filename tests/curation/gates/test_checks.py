"""The gates on real tables: one that breaks its own stops the stage and names the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dinomill.curation.gates.checks import check_embeddings, check_files, check_manifest
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.scan import FILES_SCHEMA, ScanConfig
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.quality.counting import sample_numbers
from dinomill.quality.gate import GateConfig, QualityError
from dinomill.storage.atomic import write_parquet

ALL = GateConfig(docs=False)
SAMPLED = GateConfig(sample_above=40, docs=False)


def _places(root: Path) -> dict[str, Path]:
    return {"folder": root / "q", "work": root / "w"}


def _embeddings(folder: Path, rows: np.ndarray[Any, Any]) -> EmbeddingsHandle:
    np.save(folder / "00000.npy", rows.astype(np.float16))
    return EmbeddingsHandle(
        folder=folder,
        made_of="0" * 64,
        shards=(folder / "00000.npy",),
        rows=len(rows),
        dimension=rows.shape[1],
        network="n",
    )


def _unit(count: int) -> np.ndarray[Any, Any]:
    rows = np.random.default_rng(0).standard_normal((count, 16))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_an_embedding_that_is_none_is_named_by_its_row(tmp_path: Path) -> None:
    rows = _unit(50)
    rows[7] = np.nan
    rows[9] *= 2
    with pytest.raises(QualityError) as caught:
        check_embeddings(_embeddings(tmp_path, rows), ALL, **_places(tmp_path))
    assert "7: finite=False" in str(caught.value) and "9: norm=2" in str(caught.value)


def _dataset(folder: Path, rows: list[dict[str, Any]]) -> DatasetHandle:
    write_parquet(folder / "manifest.parquet", pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    return DatasetHandle(
        folder=folder,
        made_of="0" * 64,
        manifest=folder / "manifest.parquet",
        manifest_sha256="0" * 64,
        shards=(),
        images=len(rows),
        pool_images=len(rows),
        fates={},
        channels=3,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        embedder="n",
        sources=("pool",),
    )


def _kept(number: int, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(MANIFEST_SCHEMA.names) | {
        "path": f"{number}.png",
        "source": "pool",
        "sha256": f"{number:064x}",
        "fate": "kept",
        "shard": 0,
        "offset": 512 + 1024 * number,
        "length": 100,
    }
    return row | more


def test_a_manifest_that_lost_an_image_is_refused(tmp_path: Path) -> None:
    check_manifest(_dataset(tmp_path, [_kept(number) for number in range(5)]), ALL, **_places(tmp_path))
    rows = [_kept(number) for number in range(5)]
    rows[3] |= {"shard": None}
    with pytest.raises(QualityError) as caught:
        check_manifest(_dataset(tmp_path, rows), ALL, **_places(tmp_path))
    assert "pool/3.png" in str(caught.value) and "pool/2.png" not in str(caught.value)


def test_a_long_table_is_sampled_with_a_fixed_seed(tmp_path: Path) -> None:
    check_manifest(_dataset(tmp_path, [_kept(number) for number in range(1000)]), SAMPLED, **_places(tmp_path))
    found = json.loads((tmp_path / "q" / "manifest.json").read_text())
    assert (found["rows"], found["total_rows"]) == (40, 1000)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"fate": "lost", "reason": "x", "shard": None}, "a fate that there is not"),
        ({"shard": None}, "kept, and in no shard"),
        ({"length": 0}, "kept, and of no length"),
        ({"fate": "irrelevant", "shard": None}, "left out, and no reason"),
        ({"fate": "irrelevant", "reason": "x"}, "left out, and in a shard"),
        ({"sha256": f"{3:064x}"}, "kept twice, with the same bytes"),
        ({"sha256": None}, "kept, and without a hash"),
    ],
)
def test_a_row_outside_the_sample_is_found_by_the_counts(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    unseen = int(np.setdiff1d(np.arange(1000), sample_numbers(1000, 40))[9])
    rows = [_kept(number) for number in range(1000)]
    rows[unseen] |= change
    dataset = _dataset(tmp_path, rows)
    if change.get("fate"):
        dataset = dataset.model_copy(update={"images": 999})
    with pytest.raises(QualityError, match="manifest_summary") as caught:
        check_manifest(dataset, SAMPLED, **_places(tmp_path))
    assert f"{rule}/pool/{unseen}.png: broken=1" in str(caught.value)


def test_a_handle_that_counts_otherwise_than_its_table_is_refused(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, [_kept(number) for number in range(100)]).model_copy(update={"images": 90})
    with pytest.raises(QualityError, match="kept images that the handle and the table disagree on"):
        check_manifest(dataset, SAMPLED, **_places(tmp_path))


def test_the_scan_of_many_files_is_sampled_and_counted(tmp_path: Path) -> None:
    names = ("group", "source", "path", "place")
    files = [dict.fromkeys(names, "pool") | {"path": f"{number}.png", "start": -1} for number in range(500)]
    for number, row in enumerate(files):
        row |= {"sha256": f"{number:064x}", "pixels": "p", "width": 20, "height": 20, "channels": 3}
        row |= {"brightness": 0.5, "entropy": 3.0, "candidate": number % 10 > 0}
    scan = _scan(tmp_path, files)
    config, limits = GateConfig(sample_above=50, docs=False), ScanConfig()
    handle = check_files(scan, config, limits, folder=tmp_path / "q", work=tmp_path / "w")
    assert (handle.rows, handle.total_rows) == (50, 450)
    files[490]["width"] = 3  # no candidate: it is no matter
    check_files(_scan(tmp_path, files), config, limits, folder=tmp_path / "q", work=tmp_path / "w")
    files[487]["width"] = 3
    with pytest.raises(QualityError, match=r"usable, and too small/pool/487\.png: broken=1"):
        check_files(_scan(tmp_path, files), config, limits, folder=tmp_path / "q", work=tmp_path / "w")


def _scan(root: Path, rows: list[dict[str, Any]]) -> ScanHandle:
    write_parquet(root / "files.parquet", pa.Table.from_pylist(rows, schema=FILES_SCHEMA))
    return ScanHandle(
        folder=root,
        made_of="0" * 64,
        files=root / "files.parquet",
        files_sha256="0" * 64,
        signatures=root / "none",
        quarantine=root / "none",
        groups={"pool": len(rows)},
        quarantined={},
        sources=("pool",),
    )


def test_each_gate_writes_beside_what_it_looked_at_and_the_docs_apart(curated: Any) -> None:
    """Gates wrote into the folder of another node, which emptied it when it ran alone; and DVC kept clock times."""
    dataset, _ = curated
    root = dataset.folder.parent
    assert (root / "work/curation/quality/docs/index.html").is_file()
    for suite, folder in (("files", "quality"), ("embeddings", "embeddings/quality"), ("manifest", "curated/quality")):
        assert not list((root / folder).rglob("*.html"))
        checks = json.loads((root / folder / f"{suite}.json").read_text())["checks"]
        assert checks and all(line.startswith("passed") for line in checks)
