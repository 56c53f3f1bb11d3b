"""How many images would help: accuracy against labelled images, and against images that were trained on.

The first is measured by every evaluation on features that stay as they are. The second needs trainings of its own, and
is shown where ``benchmarks/curated_shares.py`` left its results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinomill.errors import InputError
from dinomill.handles import EvaluationHandle
from dinomill.reporting.names import readable
from dinomill.reporting.plane import Growth, growth_chart
from dinomill.reporting.tables import OF_STAGE, read_result
from dinomill.scores import Figure, Measure

_TONES = 5
RESULTS = "results.jsonl"  # benchmarks/curated_shares.py


@dataclass(frozen=True)
class GrowthView:
    """One plot."""

    title: str
    svg: str
    legend: tuple[tuple[str, int], ...]
    sentences: tuple[str, ...]


def view_labels(evaluation: EvaluationHandle) -> tuple[GrowthView, ...]:
    """A plot for each measure that was taken on parts of the bank; none where none was."""
    path = evaluation.folder / "bank_shares.parquet"
    if not path.is_file():
        return ()
    rows = read_result(path, OF_STAGE.format("evaluation")).to_pylist()
    found = []
    for measure in evaluation.measures:
        by_model: dict[str, dict[int, list[float]]] = {}
        for row in rows:
            if row["measure"] == measure.name:
                by_model.setdefault(readable(row["model"]), {}).setdefault(row["images"], []).append(row["value"])
        found.append(_view(measure, by_model, "labelled images"))
    return tuple(one for one in found if one is not None)


def view_curated(folder: Path | None, measures: Sequence[Measure], dataset_sha256: str) -> tuple[GrowthView, ...]:
    """What trainings on shares of the curated set reached; none without results.

    Args:
        folder: Where the script worked; None: nowhere.
        dataset_sha256: Of the curated set; what was trained on another one is left out.
        measures: Of the evaluation, for their titles.

    Raises:
        InputError: When the results are not what the script writes.
    """
    if folder is None or not (folder / RESULTS).is_file():
        return ()
    by_steps: dict[int, dict[int, list[float]]] = {}
    try:
        for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines():
            row: dict[str, Any] = json.loads(line)
            if row["data"] == dataset_sha256:
                by_images = by_steps.setdefault(int(row["steps"]), {})
                by_images.setdefault(int(row["images"]), []).append(float(row["knn"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / RESULTS} is not what benchmarks/curated_shares.py writes.",
            found=str(error),
            action="remove it and run the script again, or set reporting.curated_shares to null",
        ) from None
    measure = next((one for one in measures if one.name == "knn"), Measure(name="knn", title="kNN"))
    if not by_steps:
        return ()
    steps = max(by_steps)  # what was tried shorter before says less
    seeds = max(len(values) for values in by_steps[steps].values())
    made = f"trained for {steps:,} steps each, {seeds} seed{'s' if seeds > 1 else ''}"
    view = _view(measure, {made: by_steps[steps]}, "curated images")
    return () if view is None else (view,)


def _view(measure: Measure, by_model: Mapping[str, Mapping[int, Sequence[float]]], what: str) -> GrowthView | None:
    curves = [
        Growth(
            name, tuple((number, _range(values)) for number, values in sorted(by_number.items())), index % _TONES + 1
        )
        for index, (name, by_number) in enumerate(by_model.items())
    ]
    sentences = tuple(_gained(curve, measure, what) for curve in curves if len(curve.points) > 1)
    svg = growth_chart(curves, measure, x_label=what, title=" ".join([f"{measure.title} by {what}.", *sentences]))
    if not svg:
        return None
    legend = tuple((curve.name, curve.tone) for curve in curves) if len(curves) > 1 else ()
    return GrowthView(f"{measure.title} against {what}", svg, legend, sentences)


def _range(values: Sequence[float]) -> Figure:
    return Figure(value=sum(values) / len(values), low=min(values), high=max(values))


def _gained(curve: Growth, measure: Measure, what: str) -> str:
    (before, less), (after, more) = curve.points[-2:]
    gain = f"{measure.signed(more.value - less.value)} {measure.step}".replace("-", "−")
    return f"{curve.name}: from {before:,} to {after:,} {what}, {gain}."
