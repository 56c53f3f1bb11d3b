"""The curation page: its shapes, its safety, and a million rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from dinomill.curation.handles import EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.page.report import render, write_report
from dinomill.curation.page.report_data import CurationPage, Group, SeedSet
from dinomill.curation.page.thumbnails import Thumb
from dinomill.curation.scan.scan import FILES_SCHEMA
from dinomill.curation.selection.balance import CLUSTERS_SCHEMA
from dinomill.curation.selection.select import SELECTION_SCHEMA
from dinomill.storage.atomic import write_parquet
from tests.curation.page.counts import COUNTS


def _page() -> CurationPage:
    evil = Thumb("", "<script>alert(1)</script>.png", "a & b")
    return CurationPage(
        counts=COUNTS,
        sheets=[Group("truncated", 10, (evil,))],
        pairs=[Group("near_duplicate:signature", 20, (evil,), (evil,))],
        seeds=[SeedSet("ours", 3, 0.5, (Group("seed", 1, (evil,), (evil,)),))],
        clusters=[Group("cluster 0", 60, (evil,), (evil,), "30 stay")],
        sizes=[(0, 60, 30), (1, 30, 30)],
        points=[(0.1, 0.2, "kept"), (0.3, 0.9, "near_duplicate")],
    )


def test_file_names_are_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    html = render(_page(), "a <network>")
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "a &lt;network&gt;" in html
    assert "http://" not in html and "https://" not in html
    assert html.count("<circle") == 2


def _synthetic(root: Path, count: int) -> tuple[ScanHandle, EmbeddingsHandle, SelectionHandle]:
    """The ledger of ``count`` files that all show one of 200 pictures."""
    generator = np.random.default_rng(0)
    (root / "pool").mkdir(parents=True)
    for number in range(200):
        pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "pool" / f"{number}.png")
    number = np.arange(count)
    files: dict[str, Any] = {name: pa.nulls(count, FILES_SCHEMA.field(name).type) for name in FILES_SCHEMA.names}
    files["group"] = pa.array(np.where(number % 1000 == 0, "seeds:a", "pool"))
    files["candidate"] = pa.array(np.full(count, True))
    files["source"] = pa.array(np.full(count, str(root / "pool")))
    files["path"] = pa.array([f"{n}.png" for n in number])
    files["place"] = pa.array([str(root / "pool" / f"{n % 200}.png") for n in number])
    files["start"] = pa.array(np.full(count, -1))
    files["bytes"] = pa.array(np.full(count, 12_000))
    write_parquet(root / "files.parquet", pa.table(files, schema=FILES_SCHEMA))
    fates = np.array(["kept", "near_duplicate", "irrelevant", "balanced_out"])[generator.integers(0, 4, count)]
    reasons = {"kept": None, "near_duplicate": "near_duplicate:signature", "irrelevant": "not_like_the_seeds"}
    selection = {
        "row": pa.array(number),
        "fate": pa.array(fates),
        "reason": pa.array([reasons.get(fate, "over_its_share") for fate in fates.tolist()]),
        "detail": pa.array([f"figure {n % 97}" for n in number]),
        "duplicate_of": pa.array(generator.integers(0, count, count), mask=fates != "near_duplicate"),
        "seed": pa.array(number // 1000 * 1000),
        "seed_similarity": pa.array(generator.random(count).astype(np.float32)),
        "embedding_row": pa.array(number),
        "cluster": pa.array(generator.integers(0, 2000, count).astype(np.int32), mask=fates == "near_duplicate"),
    }
    write_parquet(root / "selection.parquet", pa.table(selection, schema=SELECTION_SCHEMA))
    held = np.bincount(np.asarray(selection["cluster"].fill_null(2000)), minlength=2001)[:2000]
    sizes = [{"cluster": n, "before": int(held[n]), "after": int(held[n]) // 2, "parents": []} for n in range(2000)]
    write_parquet(root / "clusters.parquet", pa.Table.from_pylist(sizes, schema=CLUSTERS_SCHEMA))
    shard = np.lib.format.open_memmap(root / "00000.npy", mode="w+", dtype=np.float16, shape=(count, 16))
    shard[:] = generator.standard_normal((count, 16))
    shard.flush()
    common = {"folder": root, "made_of": "0" * 64}
    scan = ScanHandle(
        **common,
        files=root / "files.parquet",
        files_sha256="0" * 64,
        signatures=root / "none",
        quarantine=root / "none",
        groups={"pool": count},
        quarantined={},
        sources=(str(root / "pool"),),
    )
    embeddings = EmbeddingsHandle(**common, shards=(root / "00000.npy",), rows=count, dimension=16, network="none")
    chosen = SelectionHandle(
        **common,
        selection=root / "selection.parquet",
        clusters=root / "clusters.parquet",
        fates={},
        retrieved={"a": count // 2},
        thresholds={"a": 0.5},
    )
    return scan, embeddings, chosen


def test_the_pages_size_does_not_follow_the_pools(tmp_path: Path) -> None:
    pages = []
    for count in (40_000, 160_000):
        root = tmp_path / str(count)
        pages.append(write_report(*_synthetic(root, count), folder=root).read_text())
    small, large = pages
    assert len(large) < 1.1 * len(small)
    for section in ("flow", "sheets", "pairs", "seeds", "balance", "map"):
        assert f'id="{section}"' in large
    assert len(re.findall(r"<circle", large)) == 4000
    again = write_report(*_synthetic(tmp_path / "again", 40_000), folder=tmp_path / "again").read_text()
    assert again == small


def test_the_page_shows_pictures_of_every_fate(curated: Any) -> None:
    dataset, _ = curated
    html = (dataset.folder / "curation.html").read_text()
    for fate in dataset.fates:
        assert fate.replace("_", " ") in html
    assert html.count("<img") > 50
    for section in ("flow", "sheets", "pairs", "seeds", "balance", "map"):
        assert f'id="{section}"' in html
