from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from dinomill.reporting import build_report
from dinomill.reporting.summary import render


def _print(folders: dict[str, Path], width: int = 110) -> str:
    console = Console(width=width, file=io.StringIO())
    render(folders, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_it_says_what_the_run_did(run: Any, output: Path) -> None:
    handles = run.handles
    build_report(handles, run.config(output))
    folders = {
        "curated": handles.curated.folder,
        "evaluation": handles.evaluation.folder,
        "registration": handles.registration.folder,
        "package": handles.package.folder,
        "report": output,
    }
    text = _print(folders)
    for line in ("kept", "near duplicates", "teacher minus random weights", "points kNN", "mill version 3"):
        assert line in text
    assert "candidate, champion" in text
    assert "12 ms" in text
    assert "make ui" in text
    assert f"{handles.curated.images:,}" in text
    assert str(output / "index.html") in text.replace("\n", "").replace(" ", "")


def test_what_is_not_there_yet_is_left_out(run: Any, tmp_path: Path) -> None:
    text = _print({"curated": run.handles.curated.folder, "evaluation": tmp_path / "nothing"})
    assert "kept" in text
    assert "Accuracy" not in text
    assert "No stage has run yet" in _print({"curated": tmp_path})
