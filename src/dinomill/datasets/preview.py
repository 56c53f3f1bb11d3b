"""What the picture of the pipelines (`make viz`) shows of a result: its layer, a plot or a table, its size.

Everything is read from the handle and the small files beside it; images and weights are never opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NewType

from dinomill.handles import Handle

# Kedro-Viz tells by these names how to draw what it gets.
TablePreview = NewType("TablePreview", dict[str, Any])
PlotlyPreview = NewType("PlotlyPreview", dict[str, Any])

_LAYER = re.compile(r"^0\d_(\w+)$")
_ROOM = {"l": 60, "r": 20, "t": 50, "b": 60}


def layer_of(folder: Path) -> str | None:
    """Kedro's layer of a folder: ``model_input`` of ``data/05_model_input/curated``."""
    return next((found.group(1) for part in folder.parts if (found := _LAYER.match(part))), None)


def plot(handle: Handle, folder: Path) -> PlotlyPreview | None:
    """A plot of a result, as plotly reads it; None of one that has nothing to draw.

    Args:
        handle: What the stage says of it.
        folder: Where it lies.
    """
    said = handle.model_dump(mode="json")
    if isinstance(said.get("fates"), Mapping):
        return _bars("Images by fate", said["fates"])
    if isinstance(said.get("counts"), Mapping):
        return _bars("Images by kind", said["counts"])
    students = said.get("students")
    names = [folder / name for name in students] if isinstance(students, Mapping) else [folder]
    curves = {place.name: place / "history.parquet" for place in names if (place / "history.parquet").is_file()}
    if curves:
        return _curves(curves)
    scores = said.get("scores")
    return _scores(scores) if isinstance(scores, list) else None


def table(handle: Handle) -> TablePreview:
    """A handle's figures and names, a row each."""
    rows = [[name, _shown(value)] for name, value in handle.model_dump(mode="json").items() if value is not None]
    return TablePreview({"index": list(range(len(rows))), "columns": ["what", "value"], "data": rows})


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} of them"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(one)}" for key, one in list(value.items())[:8])
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _bars(title: str, values: Mapping[str, Any]) -> PlotlyPreview:
    said = {name.replace("_", " "): count for name, count in values.items()}
    bars = {"type": "bar", "x": list(said), "y": list(said.values()), "text": [f"{one:,}" for one in said.values()]}
    return PlotlyPreview({"data": [bars], "layout": {"title": {"text": title}, "margin": _ROOM}})


def _curves(files: Mapping[str, Path]) -> PlotlyPreview:
    import pyarrow.parquet as pq

    data = []
    for name, path in files.items():
        # Rows between two logged steps hold what the monitor saw, and no loss.
        rows = [row for row in pq.read_table(path, columns=["step", "loss"]).to_pylist() if row["loss"] is not None]
        steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
        data.append({"type": "scatter", "mode": "lines", "name": name, "x": steps, "y": losses})
    layout = {"title": {"text": "Loss by step"}, "xaxis": {"title": {"text": "step"}}, "margin": _ROOM}
    return PlotlyPreview({"data": data, "layout": layout})


def _scores(rows: list[dict[str, Any]]) -> PlotlyPreview | None:
    """Bars of every measure that is a share, with its interval."""
    measures = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    data = []
    for measure in measures:
        have = [(row["model"], row["scores"][measure]) for row in rows if measure in row["scores"]]
        if not all(0 <= one["value"] <= 1 for _, one in have):
            continue
        bars = {"type": "bar", "name": measure, "x": [name for name, _ in have], "y": [one["value"] for _, one in have]}
        up = [one["high"] - one["value"] for _, one in have]
        down = [one["value"] - one["low"] for _, one in have]
        data.append({**bars, "error_y": {"type": "data", "symmetric": False, "array": up, "arrayminus": down}})
    if not data:
        return None
    layout = {"title": {"text": "Scores"}, "barmode": "group", "yaxis": {"range": [0, 1]}, "margin": _ROOM}
    return PlotlyPreview({"data": data, "layout": layout})
