"""Tables of any measures, in the page's view and at the end of a run."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from dinomill.handles import EvaluationHandle
from dinomill.reporting.names import whose_size
from dinomill.reporting.scores import view_scores, view_sets
from dinomill.reporting.summary import render
from dinomill.scores import Difference, Measure, ScoreTable
from tests.tables import MEASURES, row

ERROR = Measure(name="rmse", title="RMSE", percent=False, unit="m", higher_is_better=False, high=None, note="indoors")
SHARE = Measure(name="delta1", title="δ1")


def evaluated(folder: Path) -> EvaluationHandle:
    rooms = ScoreTable(
        scores=(
            row("random initialisation", "random", reach=0.01, rmse=0.9, delta1=0.5),
            row("vit", "teacher", reach=0.01, rmse=0.412, delta1=0.871),
        ),
        measures=(ERROR, SHARE),
        gains={
            "teacher_over_random": {
                "rmse": Difference(value=-0.488, low=-0.5, high=-0.47),
                "delta1": Difference(value=0.371, low=0.35, high=0.4),
            }
        },
        bank_images=50,
        query_images=20,
    )
    return EvaluationHandle(
        folder=folder,
        made_of="0",
        scores=(row("raw pixels", "pixels", knn=0.3, linear=0.4), row("vit", "teacher", knn=0.7, linear=0.6)),
        measures=MEASURES,
        query_images=100,
        classes=("a", "b"),
        sets={"rooms": rooms, "empty": ScoreTable()},
        metrics=folder / "metrics.json",
    )


def test_a_further_set_is_a_table_of_its_own_measures(tmp_path: Path) -> None:
    handle = evaluated(tmp_path)
    (rooms,) = view_sets(handle)
    assert rooms.name == "rooms" and [one.name for one in rooms.measures] == ["rmse", "delta1"]
    assert rooms.legend == (("δ1", 1),)  # metres are on no scale of per cent
    assert rooms.chart.count("<circle") == 2
    assert rooms.measures[0].show(rooms.rows[1].figures[0].value) == "0.412 m"
    best = handle.sets["rooms"].score("teacher")
    assert best is not None and best.value("rmse") == 0.412
    main = view_scores(handle)
    assert main is not None and main.chart.count("<circle") == 4
    assert handle.sets["rooms"].behind_pixels() is None


def test_the_table_at_the_end_of_a_run_has_every_set(tmp_path: Path) -> None:
    handle = evaluated(tmp_path)
    handle.save()
    console = Console(file=io.StringIO(), width=160)
    render({"evaluation": tmp_path}, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "on rooms" in text and "RMSE (m)" in text and "0.412" in text and "87.1%" in text
    assert EvaluationHandle.load(tmp_path) == handle


def test_what_was_timed_is_in_the_table_and_not_among_the_differences(tmp_path: Path) -> None:
    speed = Measure(name="images_per_second_1", title="speed", percent=False, unit="images/s", high=None)
    rows = [
        row("random initialisation", "random", reach=0.01, delta1=0.5, images_per_second_1=80.0),
        row("vit", "teacher", reach=0.01, delta1=0.871, images_per_second_1=75.0),
    ]
    gains = {"teacher_over_random": {"delta1": Difference(value=0.371, low=0.35, high=0.4)}}
    table = ScoreTable(scores=tuple(rows), measures=(SHARE, speed), gains=gains, query_images=20)
    handle = evaluated(tmp_path).model_copy(update={"sets": {"rooms": table}})
    (view,) = view_sets(handle)
    assert view.measures == (SHARE, speed) and view.compared == (SHARE,)
    assert [len(gain.differences) for gain in view.gains] == [1]
    main = handle.model_copy(update={name: getattr(table, name) for name in ScoreTable.model_fields})
    other = main.model_copy(update={"gains": gains | {"vit_over_start": {}}})  # one pair was not compared by it
    shown = view_scores(other)
    assert shown is not None and sorted(gain.differences[0] is None for gain in shown.gains) == [False, True]
    main.save()
    console = Console(file=io.StringIO(), width=200)
    render({"evaluation": tmp_path}, console)
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "teacher vit minus random weights: +37.1 points δ1 on 20 images" in text


def test_whose_shape_random_weights_have_is_said() -> None:
    """A student of another shape stood beside them as if they were its own."""
    teacher = row("vit", "teacher", knn=0.8, linear=0.8)
    random = row("random initialisation", "random", knn=0.4, linear=0.4)
    small = row("small", "student", knn=0.7, linear=0.7).model_copy(update={"parameters": 10})
    said = whose_size(ScoreTable(scores=(random, teacher, small), measures=MEASURES))
    assert "an untrained network of the teacher vit's shape" in said
    assert said.endswith("; student small has another shape.")
    alone = whose_size(ScoreTable(scores=(random, small), measures=MEASURES))
    assert alone.startswith("Random weights are those of an untrained network, ")
    assert whose_size(ScoreTable(scores=(teacher,), measures=MEASURES)) == ""
