from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from dinomill.planning.measured import Measured, StageMeasured, Stopwatch, memory_of_family


def test_a_finished_stage_is_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "curated"
    folder.mkdir()
    (folder / "handle.json").write_text(json.dumps({"made_of": "a", "pool_images": 120}), encoding="utf-8")
    watch = Stopwatch({"curated": folder, "work": tmp_path / "work"})
    watch.begin("curation")
    ballast = np.ones(40_000_000, dtype=np.uint8)
    time.sleep(1.2)
    watch.end(finished=True)
    took = Measured.load(tmp_path / "work").stages["curation"]
    assert 1.1 < took.seconds < 10
    assert took.images == 120
    assert took.memory_bytes > ballast.nbytes
    watch.begin("pretraining")
    watch.end(finished=False)
    assert list(Measured.load(tmp_path / "work").stages) == ["curation"]


def test_images_are_what_went_through(tmp_path: Path) -> None:
    student = {"images_seen": 640}
    for name, handle, expected in (
        ("teacher", {"images_seen": 1280}, 1280),
        ("students", {"students": {"small": student}}, 640),
        ("evaluation", {"bank_images": 30, "query_images": 20}, 50),
        ("report", {}, 0),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "handle.json").write_text(json.dumps(handle), encoding="utf-8")
        stage = {"teacher": "pretraining", "students": "distillation", "report": "reporting"}.get(name, name)
        watch = Stopwatch({name: tmp_path / name, "work": tmp_path / "work"})
        watch.begin(stage)
        watch.end(finished=True)
        assert Measured.load(tmp_path / "work").stages[stage].images == expected


def test_finding_a_result_made_does_not_count(tmp_path: Path) -> None:
    long = StageMeasured(seconds=100, images=1, memory_bytes=1, made="a")
    Measured().record("pretraining", long, tmp_path)
    again = StageMeasured(seconds=4, images=1, memory_bytes=1, made="a")
    Measured.load(tmp_path).record("pretraining", again, tmp_path)
    assert Measured.load(tmp_path).stages["pretraining"].seconds == 100
    other = StageMeasured(seconds=4, images=1, memory_bytes=1, made="b")
    Measured.load(tmp_path).record("pretraining", other, tmp_path)
    assert Measured.load(tmp_path).stages["pretraining"].seconds == 4


def test_a_damaged_record_is_none(tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text("{", encoding="utf-8")
    assert Measured.load(tmp_path) == Measured()
    assert memory_of_family() > 10_000_000
