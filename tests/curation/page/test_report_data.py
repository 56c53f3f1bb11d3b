"""What the page says, before it is drawn."""

from __future__ import annotations

import pytest

from dinomill.curation.page.report_data import effective, said_once


@pytest.mark.parametrize(
    ("details", "common", "each"),
    [
        (["distance 0.0012", "distance 0.25"], "distance 0.0012 to 0.25", ["0.0012", "0.25"]),
        (
            ["contrast 0.04; at least 0.1", "contrast 0.02; at least 0.1"],
            "contrast 0.02 to 0.04; at least 0.1",
            ["0.04", "0.02"],
        ),
        (["1,413 bytes", "99 bytes", "250 bytes"], "99 to 1,413 bytes", ["1,413", "99", "250"]),
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
