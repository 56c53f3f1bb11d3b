"""What the picture of the pipelines shows of results: plots from real files, tables, layers and sizes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.datasets import HandleDataset, SourceDataset
from dinomill.datasets.preview import layer_of, size_of
from dinomill.handles import ModelHandle, SampleHandle, StudentsHandle


def dataset(folder: Path, kind: str, **more: Any) -> HandleDataset:
    return HandleDataset(str(folder), f"dinomill.handles.{kind}", **more)


def kind_of(one: HandleDataset) -> str:
    """As Kedro-Viz finds out how to draw it."""
    annotation = inspect.signature(one.preview).return_annotation
    return str(getattr(annotation, "__name__", annotation))


def student(folder: Path, name: str) -> ModelHandle:
    texts = {"made_of": "0" * 64, "name": name, "weights_sha256": "x", "dataset_sha256": "d"}
    numbers = dict.fromkeys(("parameters", "embed_dim", "image_size", "images_seen", "steps"), 4)
    rest = {"folder": folder / name, "mean": [0.5], "std": [0.5], "history": folder / name / "history.parquet"}
    return ModelHandle.model_validate(texts | numbers | rest)


def test_counts_are_bars(tmp_path: Path) -> None:
    one = dataset(tmp_path, "SampleHandle")
    assert not hasattr(one, "preview")  # nothing has run
    SampleHandle(folder=tmp_path, made_of="0" * 64, counts={"near_duplicate": 3, "garment": 1200}).save(tmp_path)
    assert kind_of(one) == "PlotlyPreview"
    (bars,) = one.preview()["data"]
    assert (bars["x"], bars["y"], bars["text"]) == (["near duplicate", "garment"], [3, 1200], ["3", "1,200"])


def test_students_are_curves_without_the_rows_that_hold_no_loss(tmp_path: Path) -> None:
    for name, losses in {"a": [None, 3.0, 2.0], "b": [5.0, None, 4.0]}.items():
        (tmp_path / name).mkdir()
        table = pa.table({"step": [0, 1, 2], "loss": pa.array(losses, pa.float64())})
        pq.write_table(table, tmp_path / name / "history.parquet")
    models = {name: student(tmp_path, name) for name in ("a", "b")}
    StudentsHandle(folder=tmp_path, made_of="0" * 64, students=models, champion="a").save(tmp_path)
    one = dataset(tmp_path, "StudentsHandle")
    assert [(curve["name"], curve["x"], curve["y"]) for curve in one.preview()["data"]] == [
        ("a", [1, 2], [3.0, 2.0]),
        ("b", [0, 2], [5.0, 4.0]),
    ]


def test_what_has_no_plot_is_a_table_of_its_figures(tmp_path: Path) -> None:
    student(tmp_path, "a").model_copy(update={"folder": tmp_path}).save(tmp_path)  # and no history lies there
    one = dataset(tmp_path, "ModelHandle")
    assert kind_of(one) == "TablePreview"
    table = one.preview()
    assert table["columns"] == ["what", "value"] and ["parameters", "4"] in table["data"]


def test_layers_come_from_folders_and_the_catalog_wins(tmp_path: Path) -> None:
    assert layer_of(Path("data/mine/05_model_input/curated")) == "model_input"
    assert layer_of(Path("data/work")) is None
    folder = Path("data/02_intermediate/duplicates")
    assert dataset(folder, "SampleHandle").metadata == {"kedro-viz": {"layer": "intermediate"}}
    said = {"dvc": {"deps": []}, "kedro-viz": {"layer": "primary"}}
    assert dataset(folder, "SampleHandle", metadata=said).metadata == said
    assert dataset(tmp_path, "SampleHandle").metadata is None
    assert SourceDataset("pool", ["photos"]).metadata == {"kedro-viz": {"layer": "raw"}}


def test_sizes_are_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub/b").write_bytes(b"123")
    assert size_of(tmp_path) == 8
