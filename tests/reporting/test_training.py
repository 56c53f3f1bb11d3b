from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dinomill.reporting.meanings import MEANING, notes
from dinomill.reporting.training import draw_health, draw_history, judgements, look_pictures
from dinomill.training.health import Reading


@pytest.fixture
def history() -> pa.Table:
    """A curve with rows of steps and rows of looks, as a training writes it."""
    steps, looks = list(range(10, 110, 10)), [0, 50, 100]
    rows = [{"step": step, "loss": 5 - step / 50, "ibot": 2.0} for step in steps]
    said = ["too early", "healthy", "dense features decaying"]
    rows += [
        {"step": step, "effective_rank": 20.0 + step, "patch_rank": 30.0 - step / 10, "copies_found": 0.2 + step / 200}
        | {"patch_likeness": 0.7, "verdict": word, "reason": f"reason of {step}"}
        for step, word in zip(looks, said, strict=True)
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pa.table(columns | {"images": [32 * int(row["step"]) for row in rows]})


def test_words_in_the_curve_are_no_numbers_and_figures_of_patches_no_terms(history: pa.Table) -> None:
    charts = {chart.title: chart for chart in draw_history(history)}
    assert set(charts) == {"Loss", "Terms of the loss", "Effective rank"}
    assert charts["Terms of the loss"].legend == ()  # one line: ibot


def test_health_has_charts_of_its_own(history: pa.Table) -> None:
    charts = {chart.title: chart for chart in draw_health(history)}
    assert set(charts) == {
        "Directions that features fill",
        "Found again in augmented copies",
        "Likeness",
    }
    assert [name for name, _ in charts["Directions that features fill"].legend] == ["effective rank", "patch rank"]
    assert "%" in charts["Found again in augmented copies"].svg
    assert draw_health(pa.table({})) == ()


def test_verdicts_are_told_where_they_change(history: pa.Table) -> None:
    assert [(one.step, one.verdict, one.bad) for one in judgements(history)] == [
        (0, "too early", False),
        (50, "healthy", False),
        (100, "dense features decaying", True),
    ]
    again = pa.table({"step": [0, 1, 2, 3], "verdict": ["healthy"] * 4, "reason": list("abcd")})
    assert [one.reason for one in judgements(again)] == ["a", "d"]
    assert judgements(pa.table({"step": [1]})) == ()


def test_pictures_are_inlined_in_order_of_steps(tmp_path: Path) -> None:
    for step in (100, 0):
        Image.fromarray(np.full((8, 8, 3), step, dtype=np.uint8)).save(tmp_path / f"look_{step:08d}.jpg")
    pictures = look_pictures(tmp_path)
    assert [picture.step for picture in pictures] == [0, 100]
    assert all(picture.uri.startswith("data:image/jpeg;base64,") for picture in pictures)


def test_every_figure_of_a_look_is_explained_under_its_chart(history: pa.Table) -> None:
    shown = {chart.title: dict(chart.notes) for chart in draw_health(history)}
    assert "directions" in shown["Directions that features fill"]["effective rank"]
    assert set(shown["Found again in augmented copies"]) == {"copies found"}
    explained = set(MEANING) | {"distinct_images"}  # of these only a collapse is said
    assert {field.name for field in fields(Reading)} - {"step"} <= explained
    assert notes(["dino_global", "dino_local", "ibot", "nobody_knows"]) == tuple(
        (name, MEANING[name]) for name in ("dino", "ibot")
    )


def test_charts_have_one_axis_wherever_their_lines_begin(history: pa.Table) -> None:
    """kNN is measured at few looks: its chart would begin where the first of them is."""
    knn = pa.array([None] * 11 + [0.5, 0.6], pa.float64())
    charts = {chart.title: chart.svg for chart in draw_history(history.append_column("knn", knn))}
    assert charts["kNN accuracy"].count("<circle") == 2
    ends = {title: re.findall(r'points="([0-9.]+),.* ([0-9.]+),', svg)[-1] for title, svg in charts.items()}
    assert float(ends["kNN accuracy"][0]) > float(ends["Loss"][0]) and ends["kNN accuracy"][1] == ends["Loss"][1]
    labels = {title: re.findall(r'y="208" text-anchor="[a-z]+">([^<]+)<', svg) for title, svg in charts.items()}
    assert labels["kNN accuracy"] == labels["Loss"] and labels["Loss"][0] == "0"
