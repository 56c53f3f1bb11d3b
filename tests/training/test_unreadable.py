"""Images that cannot be read any more, as a training and its monitor meet them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from dinomill.errors import InputError, Interrupted
from dinomill.handles import DatasetHandle
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.manifest import read_kept
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.training import trainer
from dinomill.training.job import TrainingJob
from dinomill.training.monitor_images import Share, dataset_samples
from dinomill.training.parallel import World
from dinomill.training.trainer import Stop, train

HERE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def dataset(digits_dataset: DatasetHandle, tmp_path: Path) -> DatasetHandle:
    """A copy that may be damaged."""
    folder = tmp_path / "curated"
    shutil.copytree(digits_dataset.folder, folder)
    shards = tuple(folder / shard.relative_to(digits_dataset.folder) for shard in digits_dataset.shards)
    manifest = folder / digits_dataset.manifest.name
    own = digits_dataset.model_copy(update={"folder": folder, "shards": shards, "manifest": manifest})
    own.save()
    return own


def damage(dataset: DatasetHandle, rows: range) -> None:
    kept = read_kept(dataset.manifest)
    for row in rows:
        with dataset.shards[int(kept.shards[row])].open("r+b") as file:
            file.seek(int(kept.offsets[row]))
            file.write(b"x" * int(kept.lengths[row]))


@contextmanager
def stopped_after(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a Ctrl-C in the middle of a step."""
    original = trainer.Engine.step

    def counted(self: trainer.Engine, number: int, *rest: object) -> dict[str, torch.Tensor]:
        if number + 1 == step:
            stop.requested = True
        return original(self, number, *rest)  # type: ignore[arg-type]

    @contextmanager
    def told() -> Iterator[Stop]:
        yield stop

    stop = Stop()
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Engine, "step", counted)
        patch.setattr(trainer, "stop_signals", told)
        yield


def test_they_are_counted_in_curve_checkpoints_and_result_and_a_continued_run_counts_on(
    make_job: Callable[..., TrainingJob], dataset: DatasetHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(allowed: float) -> TrainingJob:
        runtime = {"loader": {"workers": 1, "max_unreadable": allowed}, "log_every": 1, "checkpoint_every": 2}
        return make_job(dataset=dataset.folder, recipe={"steps": 10, "crops": {"local_crops": 0}}, runtime=runtime)

    damage(dataset, range(60))
    with stopped_after(4, monkeypatch), pytest.raises(Interrupted):
        train(job(0.2), HERE)
    work = job(0.2).work
    before = json.loads((work / "checkpoints" / "step_00000004" / "meta.json").read_text())["extra"]["unreadable"]
    assert before and all(int(row) < 60 for row in before)
    # As many as were met before are allowed in all: the next one is too many.
    with pytest.raises(InputError, match=f"at most {len(before)} unreadable images"):
        train(job(len(before) / 400), HERE)
    train(job(0.2), HERE)
    rows = pq.read_table(job(0.2).exported / "student" / "history.parquet").to_pylist()
    counts = [row["unreadable"] or 0 for row in rows if row["loss"] is not None]
    assert counts == sorted(counts) and counts[3] == len(before) < counts[-1]
    assert json.loads((job(0.2).exported / "summary.json").read_text())["unreadable"] == counts[-1]


def test_the_monitors_images_are_replaced_named_and_counted(
    dataset: DatasetHandle, caplog: pytest.LogCaptureFixture
) -> None:
    """One damaged image among them ended the run before its first step."""
    shown = PreprocessingConfig.square(8, dataset.mean, dataset.std)

    def samples(share: float, rank: int = 0, world: int = 1) -> torch.Tensor:
        loader = LoaderConfig(max_unreadable=share)
        return dataset_samples(dataset, shown, 400, loader=loader, seed=0, dealt=Share.of(400, rank, world)).images

    sound = samples(0.0)
    damage(dataset, range(3))
    with caplog.at_level(logging.WARNING):
        found = samples(0.01)
    changed = (found != sound).flatten(1).any(dim=1)
    assert 1 <= int(changed.sum()) <= len(found) // 400 * 3 + 3
    assert {f"the image {row}.png cannot be read any more" in caplog.text for row in range(3)} == {True}
    assert "3 of at most 4" in caplog.text
    share = Share.of(400, 0, 2)
    shared = share.whole(torch.cat([samples(0.01, rank, 2) for rank in range(2)]))
    assert torch.equal(shared, Share.of(400, 0, 1).whole(found))  # the same, whatever the processes
    with pytest.raises(InputError, match="at most 2 unreadable images"):
        samples(0.005)
