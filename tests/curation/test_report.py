from __future__ import annotations

from dinomill.curation.report import render, ribbons
from dinomill.curation.report_data import CurationPage, Group, Thumb


def _page() -> CurationPage:
    evil = Thumb("", "<script>alert(1)</script>.png", "a & b")
    return CurationPage(
        pool=100,
        fates=[("quarantined", 10, [("truncated", 10)]), ("kept", 90, [])],
        sheets=[Group("truncated", 10, (evil,))],
        pairs=[(evil, evil)],
        sizes=[(0, 60, 30), (1, 30, 30)],
        points=[(0.1, 0.2, "kept"), (0.3, 0.9, "quarantined")],
    )


def test_the_flow_is_as_high_as_the_pool_and_its_bands_are_in_proportion() -> None:
    bands = ribbons(_page())
    assert [band.label for band in bands] == ["quarantined: 10 (10.0%)", "kept: 90 (90.0%)"]
    assert bands[0].y < bands[1].y <= 360


def test_file_names_are_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    html = render(_page(), "a <network>")
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "a &lt;network&gt;" in html
    assert "http://" not in html and "https://" not in html
    assert html.count("<circle") == 2
