"""The dashboard's panels have places of their own, and are all drawn."""

import json
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from dinomill.deployment.dashboard import PANELS, places

promql = pytest.importorskip("promql_parser")

SAID = """# TYPE dinomill_requests_total counter
dinomill_requests_total{{status="200"}} {count}
# TYPE dinomill_workers_ready gauge
dinomill_workers_ready 2
"""


def test_panels_do_not_lie_on_each_other() -> None:
    found = list(places())
    assert [panel for panel, _, _ in found] == list(PANELS)
    covered = [
        {(left, top) for left in range(x, x + panel.width) for top in range(y, y + panel.height)}
        for panel, x, y in found
    ]
    assert not any(one & other for one, other in combinations(covered, 2))
    assert max(left for places_of in covered for left, _ in places_of) == 23


def test_every_panel_is_drawn(tmp_path: Path) -> None:
    from hostile_dashboard import draw, read_samples

    lines = [json.dumps({"seconds": 2 * step, "text": SAID.format(count=50 * step)}) for step in range(8)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    draw(read_samples(tmp_path / "metrics.jsonl"), tmp_path / "dashboard.png")
    with Image.open(tmp_path / "dashboard.png") as picture:
        width, height = picture.size
        rows = max(y + panel.height for panel, _, y in places()) // 4
        assert (width, height) == (1350, 180 * rows)
        # Something was drawn in each row: no two of them are alike, and none is empty.
        bands = [picture.convert("L").crop((0, 180 * row, width, 180 * (row + 1))) for row in range(rows)]
        assert all(band.getextrema()[0] < 100 for band in bands)
