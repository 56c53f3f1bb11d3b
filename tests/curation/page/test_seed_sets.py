"""What the page says of seeds, work, sidecars, depth and tiles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dinomill.curation.handles import EmbeddingsHandle, Judgement, ScanHandle, SelectionHandle
from dinomill.curation.page.notes import remarks, work_done
from dinomill.curation.page.report import render
from dinomill.curation.page.report_data import CurationPage, SeedSet
from dinomill.curation.page.seed_sets import HEIGHT, WIDTH, Border, draw_histogram
from dinomill.curation.page.thumbnails import Thumb
from dinomill.curation.page.tiles import cuts
from dinomill.curation.selection.evidence import SCORES_SCHEMA, borderline, histogram
from dinomill.curation.selection.judge import judge


def _judged() -> tuple[np.ndarray, np.ndarray, np.ndarray, Judgement]:
    generator = np.random.default_rng(0)
    pool, own = np.concatenate([generator.normal(0, 1, 300), generator.normal(-6, 1, 700)]), generator.normal(0, 1, 100)
    asked = pool >= np.quantile(own, 0.05)
    helps: Any = dict.fromkeys(("separates", "partly", "hardly", "everything", "nothing", "unknown"), "")
    return pool, own, asked, judge(pool, own, asked, name="cats", seeds=100, remedies=helps)


def test_the_histogram_counts_every_image_and_every_seed_once() -> None:
    pool, own, asked, _ = _judged()
    rows = histogram("cats", pool, own, asked)
    assert sum(row["asked"] for row in rows) == asked.sum()  # type: ignore[misc]
    assert sum(row["left"] for row in rows) == (~asked).sum()  # type: ignore[misc]
    assert sum(row["seeds"] for row in rows) == 100  # type: ignore[misc]


def test_the_line_of_the_seeds_follows_what_is_asked_for_where_they_separate() -> None:
    pool, own, asked, judgement = _judged()
    threshold = float(np.quantile(own, 0.05))
    table = pa.Table.from_pylist(histogram("cats", pool, own, asked), schema=SCORES_SCHEMA)
    drawn = draw_histogram(table, judgement, threshold)
    assert drawn is not None and drawn.threshold is not None
    assert all(0 <= bar.asked + bar.left <= HEIGHT + 0.11 for bar in drawn.bars)
    assert drawn.bars[0].x >= 0 and drawn.bars[-1].x + drawn.bars[-1].width == pytest.approx(WIDTH, abs=0.2)
    # Bars on the two sides of the threshold: nothing is asked for on the left, all is on the right.
    assert not any(bar.asked for bar in drawn.bars if bar.x + bar.width < drawn.threshold)
    assert not any(bar.left for bar in drawn.bars if bar.x > drawn.threshold)
    heights = [HEIGHT - float(step[1:]) for step in drawn.outline.split() if step.startswith("V")][:-1]
    assert sum(heights) == pytest.approx(sum(bar.asked for bar in drawn.bars), rel=0.2)
    assert draw_histogram(table.slice(0, 0), judgement, None) is None


def test_the_border_shows_the_last_asked_for_and_the_first_that_is_not() -> None:
    scores = np.arange(100) / 100
    rows = borderline("cats", np.arange(100) + 1000, scores, scores >= 0.5)
    assert [row["row"] for row in rows if row["asked"]] == list(range(1050, 1061))
    assert [row["row"] for row in rows if not row["asked"]] == list(range(1049, 1038, -1))


def test_verdict_histogram_and_border_are_on_the_page() -> None:
    pool, own, asked, judgement = _judged()
    table = pa.Table.from_pylist(histogram("cats", pool, own, asked), schema=SCORES_SCHEMA)
    doubtful = judgement.model_copy(update={"verdict": "hardly", "sentence": "dogs hardly <i>", "remedy": "raise it"})
    thumb = Thumb("", "<b>.png", "0.5")
    sets = [
        SeedSet("cats", 300, -1.6, (), judgement, draw_histogram(table, judgement, -1.6), Border((thumb,), (thumb,))),
        SeedSet("dogs", 300, None, (), doubtful),
    ]
    html = render(CurationPage(counts={("pool", "kept", ""): 5}, seeds=sets, remarks=["a & b"]), "x")
    assert "cats separates well" in html and 'class="verdict separates"' in html
    assert html.count('class="outline"') == 1 and html.count('class="shape"') == 1 and "asked for from here on" in html
    left, _, width, _ = map(float, re.findall(r'class="scores" viewBox="([^"]+)"', html)[0].split())
    assert left <= -16 and left + width >= WIDTH + 16  # labels of four digits are centred on the ends
    assert '<a href="#set-2">dogs hardly &lt;i&gt;</a>' in html and 'id="set-2"' in html
    assert "What to do: raise it." in html and "<b>.png" not in html and "a &amp; b" in html


SIXTEEN = {"16-bit integers": 7}


def _handles(tmp_path: Path, **changed: Any) -> tuple[ScanHandle, EmbeddingsHandle, SelectionHandle]:
    common: dict[str, Any] = {"folder": tmp_path, "made_of": "0"}
    scan = ScanHandle(
        **common, files=tmp_path, files_sha256="0", signatures=tmp_path, quarantine=tmp_path, groups={}, quarantined={},
        sources=(), work={"read": 10, "decoded": 4, "taken_over": 90},
    )  # fmt: skip
    work = {"embedded": 4, "taken_over": 96}
    features = EmbeddingsHandle(**common, shards=(), rows=0, dimension=1, network="n", work=work)
    chosen = SelectionHandle(**common, selection=tmp_path, clusters=tmp_path, fates={}, retrieved={}, thresholds={})
    return scan.model_copy(update=changed), features, chosen


def test_what_was_done_anew_and_passed_over_is_said(tmp_path: Path) -> None:
    scan, features, chosen = _handles(
        tmp_path, skipped={".json": 20, "Thumbs.db": 2}, deep=7, largest=4000.0, deep_kinds=SIXTEEN
    )
    assert work_done(scan, features, chosen, files=100) == [
        ("read", 10, 90), ("decoded and measured", 4, 90), ("embedded", 4, 96)
    ]  # fmt: skip
    chosen = chosen.model_copy(update={"kept_apart": {"colour": 3, "chain": 12}, "aligned": True})
    said = remarks(scan, chosen)
    assert "22 files beside the images were passed over: 20 .json, 2 Thumbs.db." in said
    assert any("12 bits" in one and "value_range to [0, 4095]" in one for one in said)
    assert any(one.startswith("3 files stay") and "colour" in one for one in said)
    assert any(one.startswith("12 files stay") for one in said) and any("same place" in one for one in said)
    floats, _, _ = _handles(tmp_path, deep=7, largest=1.0, deep_kinds={"floats": 7})
    assert not any("bits:" in one or "Set " in one for one in remarks(floats, chosen))  # 1.0 is not "8 bits of 16"
    mixed, _, _ = _handles(tmp_path, deep=7, largest=4000.0, deep_kinds={"16-bit integers": 3, "floats": 4})
    (told,) = [one for one in remarks(mixed, chosen) if "more than 8 bits" in one]
    assert "3 of 16-bit integers and 4 of floats" in told and "[0, 4095]" not in told
    ranged, _, _ = _handles(tmp_path, deep=7, largest=4000.0, deep_kinds=SIXTEEN, value_range=(0.0, 4095.0))
    assert any("4,095 as white" in one for one in remarks(ranged, chosen))


def test_a_file_that_was_read_is_not_one_that_was_known(tmp_path: Path) -> None:
    """Of a folder under a new name every file is read, and none is decoded."""
    scan, features, chosen = _handles(tmp_path, work={"read": 42, "decoded": 0, "taken_over": 42})
    assert work_done(scan, features, chosen, files=42)[:2] == [("read", 42, 0), ("decoded and measured", 0, 42)]
    untold, _, _ = _handles(tmp_path, work={})
    assert [name for name, _, _ in work_done(untold, features, chosen, files=42)] == ["embedded"]


def test_a_first_run_took_nothing_over() -> None:
    first, later = (
        render(CurationPage(counts={("pool", "kept", ""): 5}, work=[("read", 5, over), ("embedded", 5, 0)]), "x")
        for over in (0, 2)
    )
    assert "What was done anew" in first and "known from before" not in first and "known from before" in later


def test_tiles_lie_where_they_were_cut(tmp_path: Path) -> None:
    files = pa.table(
        {
            "source": ["s"] * 5,
            "tile_of": [None, "a.tif", "a.tif", "a.tif", "b.tif"],
            "tile_x": pa.array([None, 0, 64, 0, 0], pa.int32()),
            "tile_y": pa.array([None, 0, 0, 64, 0], pa.int32()),
            "tile_side": pa.array([None, 64, 64, 64, 32], pa.int32()),
        }
    )
    fates = pa.chunked_array([["kept", "kept", "filtered", "kept", "kept"]])
    first, second = cuts(files, pa.chunked_array([[0, 1, 2, 3, 4]]), fates)
    assert (first.name, first.width, first.height, first.count, first.kept) == ("a.tif", 128, 128, 3, 2)
    assert first.tiles[1] == (64, 0, 64, "filtered") and second.name == "b.tif"
    html = render(CurationPage(counts={("pool", "kept", ""): 5}, cuts=[first]), "x")
    assert html.count('height="60.2"') == 3 and "2 of 3 tiles kept" in html
    assert cuts(files.select(["source"]), pa.chunked_array([[0]]), fates) == []
