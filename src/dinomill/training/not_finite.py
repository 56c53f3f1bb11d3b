"""What is done about steps whose loss or gradient is not finite: counted, named, gone back from, and at last given up.

    <work>/not_finite.jsonl     a line a step that was left out: its terms, and the images of its batch by path
    <work>/detours.json         where the run went back to a checkpoint, and how it went on from there

A detour begins at a step; a run that is killed and goes on from a checkpoint takes the same detours again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from dinomill.errors import DinomillError, InputError
from dinomill.storage.atomic import storage_errors, write_text
from dinomill.training.config import NotFiniteConfig

log = logging.getLogger(__name__)

NOT_FINITE_NAME = "not_finite.jsonl"
DETOURS_NAME = "detours.json"

_SHOWN = 4  # images in a message; all are in the file


class DivergedError(DinomillError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class BadStep:
    """A step whose update was left out."""

    step: int  # counted from 1
    terms: dict[str, float]  # means over the processes
    images: tuple[tuple[int, ...], ...]  # rows of the dataset, by process
    guilty: tuple[int, ...]  # processes whose own loss was not finite; none: a gradient's was not

    @property
    def diagnosis(self) -> str:
        """Which loss term was not finite first, or which part's gradient where all terms were."""
        losses = {name: value for name, value in self.terms.items() if is_loss(name)}
        for name, value in losses.items():
            if not math.isfinite(value):
                return f"the loss term {name!r} is {value}"
        # The backward pass comes to the heads first.
        for name, value in reversed(self.terms.items()):
            if "gradient_norm/" in name and not math.isfinite(value):
                part = name.replace("gradient_norm/", "")
                return f"all loss terms are finite, the gradient of {part} is not ({value})"
        return "a gradient is not finite"

    @property
    def suspects(self) -> tuple[int, ...]:
        """Rows of the images that may have caused it."""
        ranks = self.guilty or tuple(range(len(self.images)))
        return tuple(row for rank in ranks for row in self.images[rank])


class NotFiniteError(Exception):
    """Too many steps in a row were left out: the run goes back, or ends."""

    def __init__(self, steps: Sequence[BadStep], broken: Sequence[str] = ()) -> None:
        super().__init__(f"{len(steps)} steps were left out")
        self.steps = list(steps)
        self.broken = list(broken)


@dataclass(frozen=True)
class Detour:
    """From a step on, another order of the images, and maybe a lower rate."""

    begins: int  # the checkpoint's step
    failed: int  # the step that it is to get past
    order: int  # 0 is the order of the seed
    rate: float  # factor on the learning rate


class Detours:
    """The detours of a run, in the order in which they were taken.

    Args:
        taken: What the main process read.
        path: ``<work>/detours.json``; None in processes that do not write.
    """

    def __init__(self, taken: Sequence[Detour], path: Path | None) -> None:
        self.taken = list(taken)
        self._path = path

    @property
    def order(self) -> int:
        """Which order the images come in now."""
        return self.taken[-1].order if self.taken else 0

    @property
    def rate(self) -> float:
        """The factor on the learning rate now."""
        return self.taken[-1].rate if self.taken else 1.0

    @property
    def begins(self) -> int | None:
        """The step at which the last detour began; None without one."""
        return self.taken[-1].begins if self.taken else None

    def begin_at(self, step: int) -> None:
        """Forget the detours that begin after the step that a run goes on from: it will come to them again."""
        self._replace([detour for detour in self.taken if detour.begins <= step])

    def go_back(self, error: NotFiniteError, config: NotFiniteConfig, begins: int, stage: str, clip: float) -> str:
        """Take another detour, from a checkpoint's step.

        Args:
            error: What went wrong.
            config: How often it may.
            begins: The checkpoint's step; 0 without one.
            stage: Whose training it is, for what is said.
            clip: The largest norm of a gradient; 0 is off.

        Returns:
            What is said of it.

        Raises:
            DivergedError: With a diagnosis, when as many as are allowed were taken from this checkpoint already.
        """
        first = error.steps[0]
        again = sum(detour.begins == begins for detour in self.taken)
        if again >= config.returns:
            raise diverged(error, begins, again, stage, clip)
        rate = self.rate * config.rate_factor
        self._replace([*self.taken, Detour(begins, first.step, self.order + 1, rate)])
        slower = f" and {rate:g} of the learning rate" if rate != 1 else ""
        return (
            f"{len(error.steps)} steps in a row were left out from step {first.step:,} on ({first.diagnosis}): back to "
            f"step {begins:,}, with another order of the images{slower}"
        )

    def _replace(self, taken: list[Detour]) -> None:
        if taken == self.taken:
            return
        self.taken = taken
        if self._path is not None:
            write_text(self._path, json.dumps([asdict(detour) for detour in taken], indent=1) + "\n")


def read_detours(work: Path) -> list[Detour]:
    """The detours of an earlier process; none where there is no file.

    Raises:
        InputError: When the file is not what was written.
    """
    path = work / DETOURS_NAME
    if not path.is_file():
        return []
    try:
        return [Detour(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not what was written.",
            found=str(error),
            action="remove it: the run goes on from its last checkpoint in the usual order of the images, at the usual "
            "learning rate",
        ) from None


def other_seed(seed: int, order: int) -> int:
    """A seed that has nothing to do with a run's own, for another order of its images."""
    return int.from_bytes(hashlib.sha256(f"{seed}/order {order}".encode()).digest()[:4], "little")


def is_loss(name: str) -> bool:
    """Whether a term of a step is a loss, of those that a step gives."""
    return "gradient_norm/" not in name and name not in ("skipped", "loss_scale")


def broken_parts(named: Mapping[str, nn.Module]) -> list[str]:
    """The parts whose weights are not finite; waits for the device."""
    found = []
    for name, part in named.items():
        if not all(bool(parameter.detach().isfinite().all()) for parameter in part.parameters()):
            found.append(name)
    return found


def diverged(error: NotFiniteError, begins: int, returns: int, stage: str, clip: float) -> DivergedError:
    """The end of a run that could not get past a step; what is said to do is what is not done already."""
    clipping = (
        f"a smaller {stage}.optimizer.clip_gradient (now {clip:g})"
        if clip
        else (f"{stage}.optimizer.clip_gradient (now 0, which is off: 3 is usual)")
    )
    kept = f"the checkpoint of step {begins:,} is kept" if begins else "there is no checkpoint before them yet"
    first, last = error.steps[0], error.steps[-1]
    tried = f", after {returns} returns to step {begins:,} with other orders of the images" if returns else ""
    where = f"step {first.step:,}" + (f" to {last.step:,}" if last.step > first.step else "")
    terms = ", ".join(f"{name} {value:.4g}" for name, value in first.terms.items() if is_loss(name))
    broken = f"; weights that are not finite: {', '.join(error.broken)}" if error.broken else ""
    return DivergedError(
        f"Training diverged at step {first.step:,}: {first.diagnosis}.",
        found=f"{len(error.steps)} updates in a row left out ({where}){tried}; {terms}{broken}",
        expected="finite numbers",
        action=f"run again with a lower {stage}.schedule.learning_rate, a longer warmup, {clipping}, or "
        f"precision fp32; the images of those batches are named in {NOT_FINITE_NAME} in the work folder, and {kept}. "
        "If it happens in the first steps, look for images that are all of one colour and for a wrong mean and std in "
        "the dataset's handle",
    )


def name_images(work: Path, bad: Sequence[BadStep], paths: Callable[[Sequence[int]], list[str]]) -> None:
    """Say which images were in the batches of steps that were left out, in the log and in ``not_finite.jsonl``.

    Args:
        work: The work folder.
        bad: The steps.
        paths: From rows of the dataset to the images' paths.
    """
    if not bad:
        return
    path = work / NOT_FINITE_NAME
    for step in bad:
        named = paths(step.suspects)
        row = {
            "step": step.step,
            "diagnosis": step.diagnosis,
            "terms": {name: value if math.isfinite(value) else str(value) for name, value in step.terms.items()},
            "processes": list(step.guilty),
            "images": named,
        }
        with storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        more = f" and {len(named) - _SHOWN} more in {path}" if len(named) > _SHOWN else f"; also in {path}"
        log.warning(
            "The update of step %s was left out: %s. Images of its batch: %s%s",
            f"{step.step:,}",
            step.diagnosis,
            ", ".join(named[:_SHOWN]),
            more,
        )
