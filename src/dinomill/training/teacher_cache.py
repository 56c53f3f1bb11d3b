"""The teacher's features of a few views of each image: made once, before the first step, by all processes together.

<cache.folder>/<hash>/         of teacher, its size and normalisation, and of how crops are cut
  <name>.npy, <name>.keys.npy  some hundred megabytes of rows, whole or absent: a run that is killed goes on after them

All processes have to see the folder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from dinomill.arrays import Rows
from dinomill.errors import ConfigError, InputError
from dinomill.execution.progress import progress
from dinomill.handles import DatasetHandle
from dinomill.images import render_opencv
from dinomill.images.batch_recipe import BatchRecipe
from dinomill.images.batches import Batch, BatchMaker
from dinomill.images.kept_views import PAIR, KeptViews, ViewShape
from dinomill.images.manifest import read_kept
from dinomill.images.shards import open_shards
from dinomill.models.hardware import autocast
from dinomill.storage.hashing import hash_json
from dinomill.storage.kept_rows import write_rows_kept
from dinomill.training.config import TeachingConfig
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.precision import compute_dtype

if TYPE_CHECKING:
    from dinomill.training.job import TrainingJob
    from dinomill.training.parallel import World

_BATCH = 16  # images that the teacher sees together, a pair of crops each
_SHARD = 128 * 2**20  # bytes of a file
_FEWEST = 256  # rows of a file: thinner ones would be put together later
_CODE = 1  # to be raised when the same crops are cut otherwise


def folder_of(job: TrainingJob) -> Path:
    """Where a job's features are kept: whatever changes them has another folder."""
    teaching, crops = job.teaching, job.recipe.crops
    assert teaching is not None and job.cache is not None
    cut = crops.model_dump(mode="json", exclude={"local_size", "local_scale", "local_crops", "global_size"})
    dataset = DatasetHandle.load(job.dataset)
    shown = [job.mean or dataset.mean, job.std or dataset.std, dataset.value_range, dataset.channels]
    made = [_CODE, job.teacher_sha256, teaching.size, teaching.dim, teaching.places, shown, cut, job.step.precision]
    return job.cache.folder / hash_json(made)[:16]


def views_of(job: TrainingJob, manifest: Path) -> KeptViews | None:
    """What is kept of a job's teacher; None where nothing is to be."""
    teaching = job.teaching
    if teaching is None or teaching.views is None:
        return None
    assert teaching.places is not None
    return KeptViews(manifest, folder_of(job), teaching.views, ViewShape(teaching.places, teaching.dim))


@dataclass(frozen=True)
class Size:
    """What a cache will take."""

    images: int
    views: int
    bytes: int
    there: int  # of the rows

    def __str__(self) -> str:
        share = self.there / (self.images * self.views)
        before = "all" if share == 1 else f"{share:.0%}"
        kept = f", {before} of them kept before" if self.there else ""
        views = f"{self.views} view{'s' if self.views > 1 else ''}"
        return f"{self.images:,} images × {views}, {self.bytes / 1e9:.2f} GB{kept}"


def require_room(job: TrainingJob, dataset: DatasetHandle) -> Size:
    """What the cache of a job will take.

    Raises:
        ConfigError: When that is more than is allowed.
    """
    views = views_of(job, dataset.manifest)
    assert views is not None and job.cache is not None
    count = len(views.numbers)
    size = Size(count, views.views, count * views.views * views.shape.bytes, count * views.views - _count(views))
    if size.bytes > job.cache.max_gb * 1e9:
        fewer = int(job.cache.max_gb * 1e9 // (count * views.shape.bytes))
        raise ConfigError(
            "The teacher's features would take more than the cache may.",
            found=f"{size}",
            expected=f"distillation.cache.max_gb: {job.cache.max_gb:g}",
            action=(f"set cache.views to {fewer}, " if fewer else "")
            + "lower teacher_size, which has fewer places, raise max_gb, or set cache to null",
        )
    return size


def with_places(teaching: TeachingConfig, teacher: GivenTeacher, channels: int) -> TeachingConfig:
    """The same with the number of places that the teacher gives; it is asked once."""
    seen = teacher.features(torch.zeros(1, channels, teaching.size, teaching.size))
    if seen.cls.shape[1] != teaching.dim or seen.patches.shape[2] != teaching.dim:
        raise InputError(
            "The teacher's features are not as wide as it says.",
            found=f"{seen.cls.shape[1]} and {seen.patches.shape[2]} numbers",
            expected=str(teaching.dim),
        )
    return teaching.model_copy(update={"places": seen.patches.shape[1]})


def fill(job: TrainingJob, dataset: DatasetHandle, world: World, stopping: Callable[[], bool]) -> bool:
    """Make what is missing; every process calls it, and makes its share.

    Args:
        job: Whose teacher it is.
        dataset: The images.
        world: The processes.
        stopping: Whether the process was told to stop; asked between two files.

    Returns:
        Whether all is there now: False when it was told to stop.
    """
    views = views_of(job, dataset.manifest)
    if views is None:
        return True
    maker, teacher = _maker(job, dataset, views), GivenTeacher.of(job)
    rows_a_file = max(_SHARD // views.shape.bytes, _FEWEST)
    parts = [
        (view, rows[start : start + rows_a_file])
        for view, rows in views.missing()
        for start in range(0, len(rows), rows_a_file)
    ]
    mine = parts[world.rank :: world.size]
    whole = True
    with progress(f"{job.stage}: the teacher's features", sum(len(rows) for _, rows in mine)) as bar:
        for view, rows in mine:
            if stopping():
                whole = False
                break
            found, features = _features(job, maker, teacher, view, rows, world.device, bar.advance)
            if len(found):
                write_rows_kept(views.folder, views.keys(view, found), features)
    if world.size > 1:
        whole = bool(world.mean(torch.tensor(float(whole))) == 1)
    if whole and world.is_main:
        views.look_again()
        views.mark_used()
    return whole


def _features(
    job: TrainingJob,
    maker: _ViewMaker,
    teacher: GivenTeacher,
    view: int,
    rows: Rows,
    device: torch.device,
    advance: Callable[[int], None],
) -> tuple[Rows, npt.NDArray[np.float16]]:
    """The images that could be read, and of each a row of features [numbers] of its pair of crops."""
    found, made = [], []
    for batch, wanted in maker.batches(view, rows):
        count = len(wanted)
        with autocast(device, compute_dtype(job.step.precision, device)):
            seen = teacher.features(batch.global_crops.to(device))
        tokens = torch.cat([seen.cls[:, None], seen.patches], dim=1).half().cpu()
        pairs = tokens.view(PAIR, _BATCH, -1)[:, :count].swapaxes(0, 1).reshape(count, -1).numpy()
        if not np.isfinite(pairs).all():
            raise InputError(
                f"The teacher {job.teacher} gives numbers that float16 does not hold.",
                found=f"up to {float(seen.patches.abs().max()):.3g}",
                action="set distillation.cache to null",
            )
        there = batch.indices.numpy()[:count] == wanted  # not those that took the place of an unreadable one
        found.append(wanted[there])
        made.append(pairs[there])
        advance(count)
    return np.concatenate(found), np.concatenate(made)


@dataclass(frozen=True)
class _InOrder:
    """A sampler of given images in a given view."""

    view: int
    rows: Rows
    batch: int = _BATCH
    seed: int = 0
    rank: int = 0

    def at(self, step: int) -> tuple[Rows, Rows]:
        rows = self.rows[step * self.batch : (step + 1) * self.batch]
        rows = np.pad(rows, (0, self.batch - len(rows)), mode="edge")  # all batches have one size
        return np.full(len(rows), self.view, dtype=np.int64), rows

    def alike(self, row: int) -> Rows:
        """An unreadable image is left out: nothing takes its place but itself, which is then no match."""
        return np.array([other for other in self.rows.tolist() if other != row] or [row])


class _ViewMaker:
    """Renders pairs of global crops at the teacher's size, some batches ahead."""

    def __init__(self, recipe: BatchRecipe, make: Callable[[BatchRecipe], BatchMaker]) -> None:
        self._recipe, self._make = recipe, make

    def batches(self, view: int, rows: Rows) -> Iterator[tuple[Batch, Rows]]:
        sampler: Any = _InOrder(view, rows)
        maker = self._make(replace(self._recipe, sampler=sampler))
        steps = iter(range(-(-len(rows) // _BATCH)))
        with ThreadPoolExecutor(2, thread_name_prefix="dinomill-views") as pool:
            waiting: deque[Future[Batch]] = deque(pool.submit(maker.make, step) for step in islice(steps, 3))
            number = 0
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(maker.make, step) for step in islice(steps, 1))
                yield batch, rows[number * _BATCH : (number + 1) * _BATCH]
                number += 1


def _maker(job: TrainingJob, dataset: DatasetHandle, views: KeptViews) -> _ViewMaker:
    teaching = job.teaching
    assert teaching is not None
    images, source = read_kept(dataset.manifest), open_shards(dataset, job.runtime.loader)
    crops = job.recipe.crops.model_copy(update={"global_size": teaching.size, "local_crops": 0})
    channels = len(job.mean or dataset.mean)  # the teacher's: grey is repeated for one that takes colour
    recipe = BatchRecipe(
        crops=crops,
        masking=job.recipe.masking.model_copy(update={"fraction": 0.0}),
        sampler=_InOrder(0, np.arange(0)),  # type: ignore[arg-type]
        grid=1,
        channels=channels,
        stored=dataset.channels,
        value_range=dataset.value_range,
        mean=job.mean or dataset.mean,
        std=job.std or dataset.std,
        views=views,
    )
    batched = not render_opencv.supports(channels)

    def make(of: BatchRecipe) -> BatchMaker:
        return BatchMaker(of, images, source, batched=batched, cache_bytes=0)

    return _ViewMaker(recipe, make)


def _count(views: KeptViews) -> int:
    return sum(len(rows) for _, rows in views.missing())
