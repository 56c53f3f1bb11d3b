"""The teacher's features are made once, kept by image, view and weights, and are those that it gives of the crops."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinomill.errors import ConfigError, InputError, StorageError
from dinomill.handles import DatasetHandle
from dinomill.training import teacher_cache
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.parallel import World
from dinomill.training.teacher_cache import fill, folder_of, require_room, views_of, with_places
from tests.training.taught import taught_job, write_teacher

HERE = World(0, 1, torch.device("cpu"))
MakeJob = Callable[..., TrainingJob]


def never() -> bool:
    return False


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> TrainingJob:
    return taught_job(make_job, write_teacher(tmp_path / "teacher"), cache=tmp_path / "cache")


def batches(job: TrainingJob, count: int = 3, start: int = 0) -> list[Any]:
    dataset = DatasetHandle.load(job.dataset)
    with build_loader(job, dataset, HERE, start_step=start) as loader:
        return [batch for batch, _ in zip(loader, range(count), strict=False)]


def test_what_is_kept_is_what_the_teacher_gives_of_the_crops(job: TrainingJob) -> None:
    dataset = DatasetHandle.load(job.dataset)
    assert fill(job, dataset, HERE, never)
    # The same run without a cache renders the teacher's crops: of the same boxes, when it draws the same views.
    views = views_of(job, dataset.manifest)
    assert views is not None
    assert views.missing() == []
    (batch,) = batches(job, 1)
    rows = batch.indices.numpy()
    large = job.recipe.crops.model_copy(update={"global_size": 12, "local_crops": 0})
    loader = job.runtime.loader.model_copy(update={"backend": "opencv"})
    changes = {
        "recipe": job.recipe.model_copy(update={"crops": large}),
        "runtime": job.runtime.model_copy(update={"loader": loader}),
    }
    alone = job.model_copy(update=changes)
    (shown,) = batches(alone, 1)
    assert np.array_equal(shown.indices.numpy(), rows)
    seen = GivenTeacher.of(job).features(shown.global_crops)
    assert batch.taught_classes.dtype == torch.float16
    torch.testing.assert_close(batch.taught_classes.float(), seen.cls, atol=5e-3, rtol=1e-2)
    torch.testing.assert_close(batch.taught_patches.float(), seen.patches, atol=5e-3, rtol=1e-2)
    assert float(batch.taught_classes.std()) > 0.1


def test_views_repeat_and_local_crops_do_not(job: TrainingJob) -> None:
    dataset = DatasetHandle.load(job.dataset)
    fill(job, dataset, HERE, never)
    views = views_of(job, dataset.manifest)
    assert views is not None
    rows, sizes = np.arange(4), np.full((4, 2), 8)
    plans = [views.plan(job.recipe.crops, sizes, rows, np.full(4, epoch), seed=0, channels=1) for epoch in range(3)]
    assert np.array_equal(plans[0].boxes[:2], plans[2].boxes[:2])
    assert not np.array_equal(plans[0].boxes[:2], plans[1].boxes[:2])
    assert not np.array_equal(plans[0].boxes[2:], plans[2].boxes[2:])


def test_what_was_cut_off_goes_on_and_nothing_is_made_twice(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "_SHARD", 1)
    monkeypatch.setattr(teacher_cache, "_FEWEST", 100)
    dataset = DatasetHandle.load(job.dataset)
    asked = iter([False, False, True])
    assert not fill(job, dataset, HERE, lambda: next(asked))
    files = {path: path.stat().st_mtime_ns for path in folder_of(job).glob("*.npy")}
    assert len(files) == 4  # two of rows, two of keys
    shown = 0
    features = GivenTeacher.features

    def counted(self: GivenTeacher, images: torch.Tensor) -> Any:
        nonlocal shown
        shown += len(images)
        return features(self, images)

    monkeypatch.setattr(GivenTeacher, "features", counted)
    assert fill(job, dataset, HERE, never)
    left = 2 * dataset.images - 200  # of each view two crops, in whole batches
    assert 2 * left <= shown <= 2 * (left + 16 * (left // 100 + 2))
    shown = 0
    assert fill(job, dataset, HERE, never)
    assert shown == 0
    assert require_room(job, dataset).there == 2 * dataset.images


def test_other_weights_sizes_and_crops_have_a_folder_of_their_own(job: TrainingJob) -> None:
    assert job.teaching is not None
    others = [
        job.model_copy(update={"teacher_sha256": "0" * 64}),
        job.model_copy(update={"teaching": job.teaching.model_copy(update={"size": 15})}),
        job.model_copy(update={"mean": (0.5,)}),
        job.model_copy(
            update={
                "recipe": job.recipe.model_copy(update={"crops": job.recipe.crops.model_copy(update={"flip": 0.0})})
            }
        ),
    ]
    assert len({folder_of(one) for one in (job, *others)}) == 5
    more = job.recipe.model_copy(update={"seed": 7, "steps": 99})
    assert folder_of(job.model_copy(update={"recipe": more})) == folder_of(job)


def test_its_size_is_said_and_too_much_is_refused(job: TrainingJob) -> None:
    dataset = DatasetHandle.load(job.dataset)
    size = require_room(job, dataset)
    assert size.bytes == dataset.images * 2 * 2 * (1 + 16) * 24 * 2
    assert str(size).startswith(f"{dataset.images:,} images × 2 views")
    assert job.cache is not None
    small = job.model_copy(update={"cache": job.cache.model_copy(update={"max_gb": 0.6 * size.bytes / 1e9})})
    with pytest.raises(ConfigError, match="more than the cache may") as caught:
        require_room(small, dataset)
    assert "set cache.views to 1" in str(caught.value)
    teaching = with_places(job.teaching, GivenTeacher.of(job), 1)
    assert teaching.places == 16


def test_a_damaged_file_is_said_and_made_again(job: TrainingJob) -> None:
    dataset = DatasetHandle.load(job.dataset)
    fill(job, dataset, HERE, never)
    rows, _ = sorted(path for path in folder_of(job).glob("*.npy") if ".keys." not in path.name)  # of two views
    content = bytearray(rows.read_bytes())
    content[-40:] = b"x" * 40
    content[len(content) // 2] ^= 255
    rows.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        batches(job, 60)
    assert fill(job, dataset, HERE, never)
    assert len(batches(job, 3)) == 3


FILL = """
import sys
from pathlib import Path
import torch
from dinomill.handles import DatasetHandle
from dinomill.training import teacher_cache
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World

teacher_cache._SHARD, teacher_cache._FEWEST = 1, 16  # many small files
job = TrainingJob.load(Path(sys.argv[1]))
assert teacher_cache.fill(job, DatasetHandle.load(job.dataset), World(0, 1, torch.device("cpu")), lambda: False)
"""


def test_two_fill_one_cache_at_once_and_one_is_killed(job: TrainingJob, tmp_path: Path) -> None:
    other = taught_job(lambda **_: job, Path(str(job.teacher)), cache=tmp_path / "other")
    told = str(job.save())
    processes = [subprocess.Popen([sys.executable, "-c", FILL, told]) for _ in range(2)]
    until = time.monotonic() + 300
    while len(list(folder_of(job).glob("*.keys.npy"))) < 3 and time.monotonic() < until:
        time.sleep(0.002)
    processes[0].kill()
    assert processes[0].wait() == -signal.SIGKILL
    assert processes[1].wait() == 0
    dataset = DatasetHandle.load(job.dataset)
    for each in (job, other):
        assert fill(each, dataset, HERE, never)
        assert require_room(each, dataset).there == 2 * dataset.images
    count = 2 * dataset.images // 16  # both views
    for one, another in zip(batches(job, count), batches(other, count), strict=True):
        assert torch.equal(one.taught_classes, another.taught_classes)
        assert torch.equal(one.taught_patches, another.taught_patches)


def test_a_full_disk_is_said_and_goes_on_when_there_is_room(
    job: TrainingJob, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_cache, "_SHARD", 1)
    monkeypatch.setattr(teacher_cache, "_FEWEST", 16)  # 26 kB a file
    full = job.model_copy(update={"cache": job.cache.model_copy(update={"folder": small_disk / "cache"})})
    dataset = DatasetHandle.load(job.dataset)
    with pytest.raises(StorageError, match="No space left") as caught:
        fill(full, dataset, HERE, never)
    assert str(small_disk) in str(caught.value)
    there = require_room(full, dataset).there
    assert 0 < there < 2 * dataset.images
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert fill(full, dataset, HERE, never)
    assert require_room(full, dataset).there == 2 * dataset.images
