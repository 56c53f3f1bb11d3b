"""Is it learning? Every so many steps the networks look at some images; what they make of them is measured and judged.

A self-supervised loss says little: it can fall while the features collapse, and rise while they improve. What is
watched instead: ``figures.py`` measures, ``health.py`` judges, ``pictures.py`` draws.

<work>/looks/step_00000080.npz    similarities of patches, with which later looks are compared
<work>/looks/look_00000080.jpg    nearest neighbours and patch colours, at a few looks
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from dinomill.errors import DinomillError, StorageError
from dinomill.handles import DatasetHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.storage.atomic import atomic_file
from dinomill.training import figures, pictures
from dinomill.training.config import MonitorConfig
from dinomill.training.health import Limits, Reading, Verdict, earlier_step, judge
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen, Who
from dinomill.training.monitor_images import Copies, Samples, Share, dataset_copies, dataset_samples, labelled_samples
from dinomill.training.parallel import World
from dinomill.vectors.knn import knn_predict

log = logging.getLogger(__name__)

LOOKS_NAME = "looks"
_NEIGHBOURS = 10  # few: the bank has a few thousand images at most
# Images whose patches are looked at: 32 of 256 patches make a figure that moves by a hundredth from set to set.
DENSE = 32


class CollapseError(DinomillError):
    """The features no longer tell images apart."""


class Look(Protocol):
    """What looks at a set; under FSDP every process must call it."""

    def __call__(self, samples: Samples, who: Who = "average", *, dense: int = 0) -> Seen:
        """See ``Engine.look``."""


@dataclass(frozen=True)
class Sets:
    """The images that are looked at.

    Args:
        plain: Some of the dataset.
        copies: Augmented copies of the first of them.
        labelled: Labelled images that are never trained on; None for none.
    """

    plain: Samples
    copies: Copies
    labelled: Samples | None = None


class _Dealt(TypedDict):
    seed: int
    dealt: Share


def monitor_sets(job: TrainingJob, dataset: DatasetHandle, preprocessing: PreprocessingConfig, world: World) -> Sets:
    """This process's share of the images that a job's monitor looks at."""
    config, recipe = job.runtime.monitor, job.recipe
    copied = min(config.copies, config.images, dataset.images)
    mine: _Dealt = {"seed": recipe.seed, "dealt": Share.of(copied, world.rank, world.size)}
    loader = job.runtime.loader
    plain = dataset_samples(dataset, preprocessing, config.images, loader=loader, **mine)
    copies = dataset_copies(
        dataset,
        preprocessing,
        copied,
        recipe.crops,
        dense=DENSE,
        patch_size=job.patch_size,
        loader=loader,
        **mine,
    )
    labelled = None
    if job.labelled is not None:
        labelled = labelled_samples(job.labelled, preprocessing, config.labelled_images, **mine)
    return Sets(plain, copies, labelled)


class Monitor:
    """Measures and judges.

    Args:
        config: When, and limits.
        look: What looks at a set.
        sets: The images; None when it is never due.
        steps: Length of the run.
        folder: ``<work>``, where what later looks need is kept.
        world: The processes. The main one measures and tells the others.
        distils: Whether the teacher is another network than the average.
        past: Rows of the curve up to the step from which the run is continued.
    """

    def __init__(
        self,
        config: MonitorConfig,
        look: Look,
        sets: Sets | None,
        *,
        steps: int,
        folder: Path,
        world: World,
        distils: bool = False,
        past: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._config, self._look, self._sets = config, look, sets
        self._steps, self._world, self._distils = steps, world, distils
        self._folder = folder / LOOKS_NAME
        self._limits = Limits(config.min_effective_rank, config.max_similarity)
        self._looks: list[Reading] = []
        self._collapsed = 0
        for row in past:
            if (reading := Reading.of_row(row)) is not None:
                self._judged(reading)

    def due(self, step: int, last: bool) -> bool:
        """Whether to look after this many steps: every so often, at the end, and before the first time a few times."""
        return self._config.every > 0 and (last or step % self._config.every == 0 or step in self._early())

    def read(self, step: int, *, last: bool = False) -> Reading:
        """Look now; only where it can be due. Every process must call it."""
        assert self._sets is not None
        dense = len(self._sets.copies.places)
        plain = self._look(self._sets.plain, dense=dense)
        first = self._look(self._sets.copies.first, dense=dense)
        second = self._look(self._sets.copies.second, "student")
        taught = self._look(self._sets.copies.first, "teacher") if self._distils else first
        # Labelled images are many: the early looks between the start and the first regular one do without them.
        labelled = None
        if self._sets.labelled is not None and (last or step % self._config.every == 0):
            labelled = self._look(self._sets.labelled)
        values = torch.full((1, len(Reading.__dataclass_fields__)), math.nan, dtype=torch.float64)
        if self._world.is_main:
            reading = self._measure(step, plain, first, taught, second, labelled)
            values[0] = torch.tensor([getattr(reading, name) for name in Reading.__dataclass_fields__])
            with _lost_at_worst():
                self._draw(step, plain)
        shared = self._world.gather(values)[0].tolist()
        return Reading(int(shared[0]), *shared[1:])

    def judge(self, reading: Reading) -> Verdict:
        """A judgement on the reading; a collapse that lasts ends the run, if so configured.

        Raises:
            CollapseError: With what to try.
        """
        config = self._config
        verdict = self._judged(reading)
        if self._collapsed < config.patience or config.on_collapse == "warn":
            return verdict
        raise CollapseError(
            f"The features have collapsed by step {reading.step:,}: {verdict.reason}.",
            found=f"{reading}, {self._collapsed} times in a row",
            expected=f"effective rank ≥ {config.min_effective_rank:g} and similarity ≤ {config.max_similarity:g}",
            action=f"{verdict.action}; the last checkpoints are kept",
        )

    def picture(self, step: int) -> Path | None:
        """The picture of a look, if it was drawn."""
        path = self._folder / pictures.name(step)
        return path if path.is_file() else None

    def _early(self) -> set[int]:
        """Halves of the interval, so that a run which goes wrong at once is told at once."""
        return {self._config.every >> number for number in range(1, self._config.early + 1)} - {0}

    def _judged(self, reading: Reading) -> Verdict:
        self._looks.append(reading)
        verdict = judge(self._looks, steps=self._steps, limits=self._limits, distils=self._distils)
        self._collapsed = self._collapsed + 1 if verdict.collapsed else 0
        return verdict

    def _measure(
        self, step: int, plain: Seen, first: Seen, taught: Seen, second: Seen, labelled: Seen | None
    ) -> Reading:
        assert self._sets is not None
        similarities = figures.patch_similarities(plain.patches)
        return Reading(
            step=step,
            effective_rank=figures.effective_rank(plain.embedding),
            similarity=figures.mean_similarity(plain.embedding),
            class_rank=figures.effective_rank(plain.classes),
            patch_rank=figures.effective_rank(plain.patches.flatten(0, 1)),
            patch_likeness=figures.likeness(similarities),
            patch_class_likeness=figures.class_likeness(plain.patches, plain.classes),
            prototypes_used=figures.prototypes_in_use(plain.prototype),
            agreement=figures.agreement(taught.prototype, second.prototype),
            neighbour_distance=math.exp(-figures.koleo(plain.classes)),
            copies_found=figures.copies_found(first.embedding, plain.embedding),
            patches_found=figures.patches_found(first.patches, plain.patches, self._sets.copies.places),
            patch_drift=self._drift(step, similarities),
            knn=math.nan if labelled is None else self._accuracy(labelled),
            distinct_images=float(len({image.numpy().tobytes() for image in self._sets.plain.images})),
        )

    def _accuracy(self, seen: Seen) -> float:
        """Leave-one-out: every image is a query, which halves the noise of a fifth of them."""
        assert self._sets is not None
        assert self._sets.labelled is not None
        labels = self._sets.labelled.labels
        assert labels is not None
        features = seen.embedding
        (classes,) = knn_predict(features, features, labels, ks=(_NEIGHBOURS,), exclude_self=True).values()
        return float((classes == labels).double().mean())

    def _draw(self, step: int, plain: Seen) -> None:
        assert self._sets is not None
        if pictures.due(step, [look.step for look in self._looks], self._steps):
            # Of this process's images the first batch are the set's first, in the same order.
            mine = self._sets.plain.images[: self._sets.plain.share.batch]
            pictures.draw(self._folder, step, mine, plain.embedding, plain.patches)

    def _drift(self, step: int, similarities: Tensor) -> float:
        """Compare with an earlier look, and keep these for later ones."""
        with (
            _lost_at_worst(),
            atomic_file(self._folder / f"step_{step:08d}.npz") as path,
            path.open("wb") as file,
        ):
            np.savez(file, similarities=similarities.numpy().astype(np.float16))
        earlier = earlier_step([look.step for look in self._looks], step)
        if earlier is None:
            return math.nan
        try:
            with np.load(self._folder / f"step_{earlier:08d}.npz", allow_pickle=False) as kept:
                before = torch.from_numpy(kept["similarities"])
        except (OSError, ValueError, KeyError):
            return math.nan  # a look of before this was kept, or a file that was lost: a figure less
        return figures.drift(similarities, before) if before.shape == similarities.shape else math.nan


@contextmanager
def _lost_at_worst() -> Iterator[None]:
    """A picture or a comparison that a full disk takes is said and missed; training goes on."""
    try:
        yield
    except StorageError as error:
        log.warning("A look of the monitor could not be kept: %s", error)
