from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dinomill.registration.energy import spent
from dinomill.storage.atomic import write_parquet

# Two rows of 100 images at 50 a second, one of 200 at 100: six seconds. Looks have no speed.
IMAGES, SPEED = [100, 200, 200, 400], [50.0, 50.0, None, 100.0]


def _curve(path: Path, **columns: list[float | None]) -> Path:
    write_parquet(path, pa.table({"images": IMAGES, "images_per_second": SPEED, **columns}))
    return path


def test_hours_are_those_of_the_steps(tmp_path: Path) -> None:
    cost = spent(_curve(tmp_path / "a.parquet"))
    assert cost.hours == pytest.approx(6 / 3600) and cost.kwh is None
    assert "registration.watts" in cost.how


def test_energy_is_measured_before_it_is_estimated(tmp_path: Path) -> None:
    gpu = spent(_curve(tmp_path / "gpu.parquet", gpu_watts=[300.0, 300.0, None, 600.0]), watts=50.0)
    assert gpu.kwh == pytest.approx((2 * 300 + 2 * 300 + 2 * 600) / 3.6e6) and gpu.how.startswith("measured: power of")
    # The counter began anew between the second and the last row.
    cpu = spent(_curve(tmp_path / "cpu.parquet", cpu_joules=[1000.0, 1200.0, None, 100.0]))
    assert cpu.kwh == pytest.approx(200 / 3.6e6) and "RAPL" in cpu.how
    estimated = spent(_curve(tmp_path / "no.parquet"), watts=60.0)
    assert estimated.kwh == pytest.approx(60 * 6 / 3.6e6) and estimated.how.startswith("estimated: 60 W")


def test_without_a_curve_nothing_is_said(tmp_path: Path) -> None:
    assert spent(tmp_path / "none.parquet", 60.0) == spent(tmp_path / "none.parquet")
    write_parquet(tmp_path / "old.parquet", pa.table({"images": IMAGES}))
    assert spent(tmp_path / "old.parquet").hours is None


def test_a_curve_that_was_cut_off_is_said_and_stops_no_card(tmp_path: Path) -> None:
    whole = _curve(tmp_path / "whole.parquet")
    cut = tmp_path / "history.parquet"
    for content in (whole.read_bytes()[:-20], b"", b"PAR1" + bytes(40) + b"PAR1"):
        cut.write_bytes(content)
        assert spent(cut).how == "the curve of the training cannot be read"
