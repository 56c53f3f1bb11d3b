from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dinomill.training.history import History, Recorder
from dinomill.training.parallel import World

HERE = World(0, 1, torch.device("cpu"))


def test_rows_after_the_checkpoint_are_dropped_and_a_torn_line_too(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path, steps=0)
    for step in (10, 20, 30):
        history.append({"step": step, "loss": step / 10})
    path.write_text(path.read_text() + '{"step": 40, "lo')
    again = History(path, steps=20)
    assert [row["step"] for row in again.rows] == [10, 20]
    again.append({"step": 30, "loss": 7.0})
    assert list(History(path, steps=100).by_step()) == [(10, {"loss": 1.0}), (20, {"loss": 2.0}), (30, {"loss": 7.0})]


def test_a_run_that_is_made_shorter_and_as_long_again_has_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for step in (10, 20, 30, 40):
        History(path, steps=100).append({"step": step, "loss": step / 10})
    shorter = History(path, steps=10, until=20)
    assert [row["step"] for row in shorter.rows] == [10]
    shorter.append({"step": 20, "loss": 2.0})
    assert [row["step"] for row in shorter.rows] == [10, 20]
    assert [row["step"] for row in History(path, steps=40, until=40).rows] == [10, 20, 30, 40]
    # What lies behind the checkpoint that a run goes on from is made again.
    assert [row["step"] for row in History(path, steps=20, until=40).rows] == [10, 20]
    assert [row["step"] for row in History(path, steps=100).rows] == [10, 20]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    History(tmp_path / "history.jsonl", steps=0, writes=False).append({"step": 1})
    assert not list(tmp_path.iterdir())


def test_parquet_has_typed_columns_with_nulls_and_one_students_terms(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl", steps=0)
    history.append({"step": 5, "images": 80, "loss": 3.0, "small/ibot": 1.0, "tiny/ibot": 2.0})
    history.append({"step": 5, "images": 80, "knn": 0.5})
    history.write(tmp_path / "history.parquet", prefix="small/")
    table = pq.read_table(tmp_path / "history.parquet")
    assert table.schema.field("step").type == pa.int64()
    assert table.to_pylist() == [
        {"step": 5, "images": 80, "loss": 3.0, "ibot": 1.0, "knn": None},
        {"step": 5, "images": 80, "loss": None, "ibot": None, "knn": 0.5},
    ]


def test_equal_trainings_leave_equal_curves_on_machines_of_any_speed(tmp_path: Path) -> None:
    written = []
    for speed in (100.0, 37.5):
        folder = tmp_path / str(speed)
        folder.mkdir()
        history = History(folder / "history.jsonl", steps=0)
        history.append({"step": 5, "images": 80, "loss": 3.0, "images_per_second": speed, "cpu_percent": speed})
        history.append({"step": 5, "images": 80, "knn": 0.5})
        history.write(folder / "history.parquet")
        history.write_machine(folder / "machine.parquet")
        written.append((folder / "history.parquet").read_bytes())
        (row,) = pq.read_table(folder / "machine.parquet").to_pylist()
        assert row == {"step": 5, "images": 80, "cpu_percent": speed, "images_per_second": speed}
    assert written[0] == written[1]


def test_dvc_gets_the_losses_and_the_looks_of_one_student(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl", steps=0)
    history.append({"step": 0, "images": 0, "effective_rank": 2.5, "verdict": "healthy", "reason": "all, well"})
    history.append({"step": 5, "images": 80, "loss": 3.0, "small/ibot": 1.0, "tiny/ibot": 2.0, "memory_gb": 1.0})
    history.write_curves(tmp_path, prefix="small/")
    assert (tmp_path / "curve.csv").read_text() == "step,images,loss,ibot\n5,80,3.0,1.0\n"
    assert (tmp_path / "looks.csv").read_text() == "step,images,effective_rank\n0,0,2.5\n"


def test_recorder_averages_between_rows_across_a_checkpoint() -> None:
    def terms(value: float) -> dict[str, torch.Tensor]:
        return {"ibot": torch.tensor(value), "total": torch.tensor(2 * value)}

    recorder = Recorder()
    recorder.add(terms(1.0))
    recorder.add(terms(2.0))
    recorder.read(HERE, 2)
    continued = Recorder(recorder.state())
    continued.add(terms(6.0))
    continued.read(HERE, 3)
    assert continued.means() == {"ibot": 3.0, "loss": 6.0, "skipped": 0}
    continued.add(terms(5.0))
    continued.read(HERE, 4)
    assert continued.means() == {"ibot": 5.0, "loss": 10.0, "skipped": 0}


def test_recorder_names_the_steps_that_were_left_out_and_counts_those_in_a_row() -> None:
    recorder = Recorder()
    images = torch.tensor([4, 2])
    for value in (1.0, float("nan"), 3.0, float("inf")):
        skipped = torch.tensor(float(not value < 10))
        recorder.add({"koleo": torch.tensor(value), "skipped": skipped}, [images])
    bad = recorder.read(HERE, 104)
    assert [(step.step, step.diagnosis, step.suspects) for step in bad] == [
        (102, "the loss term 'koleo' is nan", (4, 2)),
        (104, "the loss term 'koleo' is inf", (4, 2)),
    ]
    assert [step.step for step in recorder.streak] == [104]
    assert recorder.means() == {"koleo": 2.0, "skipped": 2}
    recorder.add({"koleo": torch.tensor(float("nan")), "skipped": torch.tensor(1.0)})
    recorder.read(HERE, 105)
    assert [step.step for step in recorder.streak] == [104, 105]
    assert recorder.means() == {"skipped": 1}


def test_recorder_blames_a_part_where_all_losses_are_finite() -> None:
    recorder = Recorder()
    terms = {"ibot": 1.0, "gradient_norm/backbone": float("nan"), "gradient_norm/dino_head": 2.0, "skipped": 1.0}
    terms |= {"loss_scale": 0.5}  # no scale helps any more
    recorder.add({name: torch.tensor(value) for name, value in terms.items()})
    (bad,) = recorder.read(HERE, 7)
    assert bad.diagnosis == "all loss terms are finite, the gradient of backbone is not (nan)"


def test_recorder_takes_an_overflow_of_half_precision_for_what_it_is() -> None:
    recorder = Recorder()
    terms = {"ibot": 1.0, "gradient_norm/backbone": 0.0, "skipped": 1.0, "loss_scale": 1024.0}
    recorder.add({name: torch.tensor(value) for name, value in terms.items()})
    assert recorder.read(HERE, 1) == []
    assert recorder.means()["skipped"] == 1


def test_recorder_keeps_apart_rows_of_other_terms() -> None:
    recorder = Recorder()
    recorder.add({"ibot": torch.tensor(float("nan"))})
    recorder.add({"ibot": torch.tensor(1.0), "gram": torch.tensor(2.0)})
    assert [step.step for step in recorder.read(HERE, 2)] == [1]
    assert recorder.means() == {"ibot": 1.0, "gram": 2.0, "skipped": 0}
