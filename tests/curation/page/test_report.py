"""The curation page: its shapes, its safety, and a million rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.page.flow import draw_flow
from dinomill.curation.page.report import render, write_report
from dinomill.curation.page.report_data import CurationPage, Group, SeedSet, effective, said_once
from dinomill.curation.page.thumbnails import Pictures, Thumb
from dinomill.curation.scan.scan import FILES_SCHEMA
from dinomill.curation.selection.balance import CLUSTERS_SCHEMA
from dinomill.curation.selection.select import SELECTION_SCHEMA
from dinomill.storage.atomic import write_parquet

COUNTS = {
    ("pool", "quarantined", "truncated"): 6,
    ("pool", "quarantined", "empty"): 4,
    ("pool", "near_duplicate", "near_duplicate:signature"): 20,
    ("seeds:ours", "evaluation_overlap", "evaluation_overlap:same_bytes"): 2,
    ("pool", "kept", ""): 60,
    ("seeds:ours", "kept", "as_is"): 8,
}


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


def test_every_file_flows_from_the_first_bar_to_one_fate() -> None:
    flow = draw_flow(COUNTS)
    assert flow.lanes == [(1, "ours, taken whole"), (0, "the pool")]
    columns = sorted({bar.x for bar in flow.bars})
    assert (
        len(columns) == 4
    )  # looked at, readable, no copies, apart from evaluation: steps that left nothing out are left out
    scale = sum(bar.height for bar in flow.bars if bar.x == 0) / 100
    staying = [round(sum(b.height for b in flow.bars if b.x == x and b.lane >= 0) / scale) for x in columns]
    leaving = [round(sum(b.height for b in flow.bars if b.x == x and b.lane < 0) / scale) for x in columns]
    assert staying == [100, 90, 70, 68] and leaving == [0, 10, 20, 2]
    names = [(label.name, label.count) for label in flow.labels]
    assert ("looked at", "100 · 100%") in names and ("kept", "68 · 68.0%") in names
    assert ("near: signature", "20 · 20.0%") in names and ("truncated", "6 · 6.0%") in names
    assert max(bar.y + bar.height for bar in flow.bars) <= flow.height
    assert len(flow.ribbons) == 2 * 3 + 4


def test_many_reasons_of_a_step_share_a_bar_and_a_rare_one_is_not_rounded_away() -> None:
    counts = {("pool", "quarantined", f"fault_{n}"): n for n in range(1, 9)} | {("pool", "kept", ""): 1_000_000}
    flow = draw_flow(counts)
    left_out = [label for label in flow.labels if not label.above]
    assert [label.name for label in left_out] == ["fault 8", "fault 7", "fault 6", "5 other reasons"]
    assert left_out[-1].count == "15 · 0.00%" or left_out[-1].count.startswith("15 · 0.0")
    assert min(bar.height for bar in flow.bars) >= 1
    spots = [label.y for label in left_out]
    assert np.diff(spots).min() >= 30  # labels do not run into each other


def test_nothing_left_out_is_a_flow_of_one_bar() -> None:
    flow = draw_flow({("pool", "kept", ""): 5})
    assert len(flow.bars) == 1 and not flow.ribbons


def test_file_names_are_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    html = render(_page(), "a <network>")
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "a &lt;network&gt;" in html
    assert "http://" not in html and "https://" not in html
    assert html.count("<circle") == 2


@pytest.mark.parametrize(
    ("details", "common", "each"),
    [
        (["distance 0.0012", "distance 0.25"], "distance …", ["0.0012", "0.25"]),
        (["contrast 0.04; at least 0.1", "contrast 0.02; at least 0.1"], "contrast …; at least 0.1", ["0.04", "0.02"]),
        (["0 bytes", "0 bytes"], "0 bytes", ["", ""]),
        (["cut off", "ends at 3 bytes"], "", ["cut off", "ends at 3 bytes"]),
        (["1×9 pixels", "2×8 pixels"], "", ["1×9 pixels", "2×8 pixels"]),
    ],
)
def test_what_all_pictures_have_in_common_is_said_once(details: list[str], common: str, each: list[str]) -> None:
    assert said_once(details) == (common, each)


def test_balance_is_told_in_one_figure() -> None:
    assert effective([(0, 10, 5), (1, 10, 5)], 1) == pytest.approx(2)
    assert effective([(0, 30, 10), (1, 10, 10)], 1) < effective([(0, 30, 10), (1, 10, 10)], 2) == pytest.approx(2)


def test_what_the_dataset_must_not_show_the_page_does_not_show(tmp_path: Path) -> None:
    from skimage import data

    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    rows = [
        {"group": "pool", "source": str(tmp_path), "path": "a.png", "start": -1, "place": "", "nsfw": score}
        | {"face_boxes": faces, "bytes": (tmp_path / "a.png").stat().st_size}
        for score, faces in ((0.1, None), (0.1, [0.36, 0.12, 0.53, 0.34]), (0.9, None))
    ]
    columns = [pa.field("candidate", pa.bool_()) if f.name == "candidate" else f for f in FILES_SCHEMA]
    files = pa.Table.from_pylist(rows, schema=pa.schema(columns))
    pictures = Pictures(files, FilterConfig.model_validate({"max_nsfw": 0.5, "faces": {}}))
    shown = [pictures.thumb(row).uri for row in range(3)]
    assert len(set(shown)) == 3 and all(shown)
    assert len(shown[2]) < len(shown[0]) / 2  # patches of colour compress well
    open_page = Pictures(files, FilterConfig())
    assert len({open_page.thumb(row).uri for row in range(3)}) == 1


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
    common = {"folder": root, "config_hash": "0" * 64}
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
