"""The drawing of where files went: bars and ribbons add up to the counts, and can be read."""

from __future__ import annotations

import numpy as np

from dinomill.curation.page.flow import draw_flow
from tests.curation.page.counts import COUNTS


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
