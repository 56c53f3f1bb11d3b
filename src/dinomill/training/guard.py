"""What is looked at now and then beside the loss: steps that were left out, and images that cannot be read any more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from dinomill.handles import DatasetHandle
from dinomill.images.manifest import read_kept
from dinomill.images.substitutes import Tally
from dinomill.training.agreement import Agreement
from dinomill.training.engine import Engine
from dinomill.training.history import Recorder
from dinomill.training.job import TrainingJob
from dinomill.training.not_finite import NotFiniteError, broken_parts, name_images
from dinomill.training.parallel import World


class Guard:
    """Looks at what was recorded for steps that were left out, because something was not finite.

    Args:
        job: Whose training it is.
        world: The processes.
        engine: What is trained.
        recorder: The terms of its steps.

    Attributes:
        tally: The images that this process could not read; the loader's.
    """

    def __init__(self, job: TrainingJob, world: World, engine: Engine, recorder: Recorder) -> None:
        self._job, self._world, self._engine, self._recorder = job, world, engine, recorder
        self._together = Agreement(world)
        self.tally: Tally | None = None

    @property
    def unreadable(self) -> int:
        """How many images of the dataset could not be read since the first step, as of the last ``read``."""
        return 0 if self.tally is None else len(self.tally.reasons)

    def read(self, step: int) -> None:
        """Fetch the recorded terms; every process must call it, and all find the same.

        Raises:
            NotFiniteError: When too many steps in a row were left out.
            InputError: When more images than may be could not be read, in all processes together.
        """
        bad = self._recorder.read(self._world, step)
        if bad and self._world.is_main:
            name_images(self._job.work, bad, self._named)
        # One that has ended since counts too: whether it is seen in time must not depend on how often is looked.
        longest = self._recorder.longest
        if len(longest) >= self._job.runtime.not_finite.in_a_row:
            raise NotFiniteError(longest, broken_parts(self._engine.parts()))
        if self.tally is not None and self._world.size > 1:
            rows = self._together.gathered(list(self.tally.reasons.items()))
            self.tally.learn([dict(map(tuple, of)) for of in rows], lambda row: self._named([row])[0])

    def _named(self, rows: Sequence[int]) -> list[str]:
        return [str(self._paths[row]) for row in rows]

    @cached_property
    def _paths(self) -> Sequence[object]:
        paths: Sequence[object] = read_kept(DatasetHandle.load(self._job.dataset).manifest).paths
        return paths
