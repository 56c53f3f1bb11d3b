from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinomill.errors import InputError
from dinomill.reporting.confusion import view_confusions
from dinomill.reporting.features import view_neighbours
from dinomill.reporting.growth import view_labels
from dinomill.reporting.planted import score_planted
from dinomill.reporting.training import view_training


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(60)])
def test_a_table_that_was_cut_off_is_named_with_what_writes_it_again(run: Any, tmp_path: Path, content: bytes) -> None:
    cut = tmp_path / "cut.parquet"
    handles, config = run.handles, run.config(tmp_path)
    evaluation = handles.evaluation.model_copy(update={"folder": tmp_path})
    teacher = handles.teacher.model_copy(update={"history": cut})
    readers: dict[str, tuple[Callable[[], object], str]] = {
        "images.parquet": (lambda: view_confusions(evaluation, ["teacher"], 3), "--pipelines evaluation"),
        "bank_shares.parquet": (lambda: view_labels(evaluation), "--pipelines evaluation"),
        "neighbours.parquet": (
            lambda: view_neighbours(evaluation, tmp_path, ["teacher"], handles.curated, config),
            "--pipelines evaluation",
        ),
        "cut.parquet": (lambda: view_training(teacher, "teacher"), "--pipelines pretraining"),
        "planted.parquet": (lambda: score_planted(handles.curated, tmp_path / "planted.parquet"), "dinomill sample"),
    }
    for name, (read, command) in readers.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read") as caught:
            read()
        assert command in str(caught.value)
