"""Limits on measures: what breaks one is left out with its figure, what could not be measured is not judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.curation.config import CurationConfig
from dinomill.curation.content.filters import FILTER_COLUMNS, FilterConfig, apply_filters
from dinomill.curation.stage import curate
from dinomill.errors import InputError

Configure = Callable[..., CurationConfig]


def _files(*rows: dict[str, float | None]) -> pa.Table:
    """A scan's table with the columns that filters look at; what is not given is in the middle."""
    usual = {"nsfw": 0.1, "brightness": 0.5, "contrast": 0.2, "sharpness": 0.1, "entropy": 5.0}
    assert set(usual) == set(FILTER_COLUMNS)
    return pa.Table.from_pylist([usual | row for row in rows], schema=pa.schema([(n, pa.float32()) for n in usual]))


@pytest.mark.parametrize(
    ("limits", "row", "reason", "detail"),
    [
        ({"max_nsfw": 0.8}, {"nsfw": 0.9}, "nsfw", "nsfw 0.9; at most 0.8"),
        ({"min_brightness": 0.1}, {"brightness": 0.05}, "too_dark", "brightness 0.05; at least 0.1"),
        ({"max_brightness": 0.9}, {"brightness": 0.95}, "too_bright", "brightness 0.95; at most 0.9"),
        ({"min_contrast": 0.1}, {"contrast": 0.02}, "too_flat", "contrast 0.02; at least 0.1"),
        ({"min_sharpness": 0.01}, {"sharpness": 0.0}, "too_blurred", "sharpness 0; at least 0.01"),
        ({"min_entropy": 2}, {"entropy": 1.5}, "too_empty", "entropy 1.5; at least 2"),
    ],
)
def test_every_limit_has_its_reason_and_figure(
    limits: dict[str, float], row: dict[str, float | None], reason: str, detail: str
) -> None:
    found = apply_filters(_files({}, row, {}), FilterConfig.model_validate(limits))
    assert found.out.tolist() == [False, True, False]
    assert (found.reason[1], found.detail[1]) == (reason, detail)
    assert found.reason[0] is None and found.detail[2] is None


def test_a_value_at_its_limit_passes() -> None:
    files = _files({"brightness": 0.25}, {"brightness": 0.75})
    assert not apply_filters(files, FilterConfig(min_brightness=0.25, max_brightness=0.75)).out.any()


def test_of_two_broken_limits_the_first_is_the_reason() -> None:
    found = apply_filters(
        _files({"brightness": 0.0, "contrast": 0.0}), FilterConfig(min_contrast=0.1, min_brightness=0.1)
    )
    assert found.reason.tolist() == ["too_dark"]


def test_an_unreadable_file_passes_for_it_has_another_fate() -> None:
    found = apply_filters(_files({}, dict.fromkeys(FILTER_COLUMNS)), FilterConfig(min_brightness=0.9, max_nsfw=0.0))
    assert found.out.tolist() == [True, False]


def test_without_limits_nothing_is_left_out_and_an_empty_scan_is_no_error() -> None:
    assert not apply_filters(_files({"brightness": 0.0}), FilterConfig()).out.any()
    assert len(apply_filters(_files(), FilterConfig(min_brightness=0.5, max_nsfw=0.5)).out) == 0


def test_a_limit_on_what_no_row_was_measured_for_is_refused() -> None:
    with pytest.raises(InputError, match=r"filters\.max_nsfw is set, and the scan did not measure it"):
        apply_filters(_files({"nsfw": None}, {"nsfw": None}), FilterConfig(max_nsfw=0.5))


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
