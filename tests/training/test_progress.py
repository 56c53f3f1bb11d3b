from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dinomill.training import progress
from dinomill.training.progress import Clock, ProgressBar, machine_load, memory_gb

ROW = {"loss": 1.5, "images_per_second": 1234.0, "data_wait": 0.02, "memory_gb": 3.25}


def test_clock_tells_waiting_from_working_and_leaves_pauses_out() -> None:
    now = [0.0]
    clock = Clock(now=lambda: now[0])

    def slow() -> list[int]:
        return [1, 2]

    class Source:
        def __init__(self) -> None:
            self.items = iter(slow())

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> int:
            now[0] += 1.0  # a second of waiting for each item
            return next(self.items)

    for _ in clock.waiting(Source()):
        now[0] += 3.0  # a step
        now[0] += 10.0  # a checkpoint
        clock.apart(10.0)
    seconds, share = clock.read()
    assert seconds == pytest.approx(2 * (1 + 3) + 1)
    assert share == pytest.approx(2 / 9)
    now[0] += 4
    assert clock.read()[0] == pytest.approx(4.0)


def test_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with ProgressBar("pretraining", steps=100, console=Console(file=out, width=200)) as bar:
        bar.advance(10)
        bar.report(10, ROW)
        bar.report(20, ROW)  # too soon for another line
        bar.say("step 20: kNN 70%")
        bar.report(100, ROW)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("pretraining: step 10/100 · loss 1.500 · 1,234 images/s · data wait 2% · 3.2 GB")
    assert lines[1] == "step 20: kNN 70%"
    assert "step 100/100" in lines[2]


def test_bar_on_a_terminal_shows_the_figures() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160)
    with ProgressBar("pretraining", steps=100, console=console) as bar:
        bar.report(40, ROW)
    text = out.getvalue()
    assert "40/100" in text
    assert "1,234 images/s" in text


def test_other_processes_are_silent() -> None:
    out = io.StringIO()
    with ProgressBar("pretraining", steps=1, enabled=False, console=Console(file=out)) as bar:
        bar.report(1, ROW)
        bar.say("nothing")
    assert out.getvalue() == ""


def test_memory_is_this_processs_peak() -> None:
    before = memory_gb(torch.device("cpu"))
    held = torch.ones(80_000_000)
    assert memory_gb(torch.device("cpu")) >= max(before, held.numel() * 4 / 1e9)


def test_memory_of_the_process_that_started_it_does_not_count() -> None:
    held = torch.ones(150_000_000)
    own = memory_gb(torch.device("cpu"))
    code = "import torch; from dinomill.training.progress import memory_gb; print(memory_gb(torch.device('cpu')))"
    started = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 0.01 < float(started.stdout) < own - 0.5 * held.numel() * 4 / 1e9


def test_the_processors_counter_is_in_the_curve_where_it_may_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_JOULES", tmp_path / "energy_uj")
    assert "cpu_joules" not in machine_load(torch.device("cpu"))
    (tmp_path / "energy_uj").write_text("2500000\n")
    load = machine_load(torch.device("cpu"))
    assert load["cpu_joules"] == 2.5 and {"cpu_percent", "host_memory_percent"} <= set(load)
    (tmp_path / "energy_uj").write_text("")
    assert "cpu_joules" not in machine_load(torch.device("cpu"))
