"""Checkpoints of a training: whole or absent, known to be sound, readable by any number of processes, exact to the bit.

    <work>/checkpoints/
      step_00000400/            written as .step_00000400.tmp by all processes, renamed when all have finished
        meta.json               step, the job that made it, what the loop continues with, files with their sha256
        part_00000.safetensors  networks, centres, moments (`checkpoint_files`, `checkpoint_state`)
      step_00000500/            the newest `keep` stay, and every `keep_every` steps one
      best.json                 the step that the monitor measured best; its checkpoint stays as well

A step copies the state to host memory and goes on; a thread writes. There is no random number state to keep: every step
seeds its generators from (seed, step, rank), the order of the images is a function of (seed, epoch, step), and so the
step number is the whole position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinomill.errors import InputError
from dinomill.training.agreement import Agreement
from dinomill.training.checkpoint_reader import Reader
from dinomill.training.checkpoint_shelf import Best, Shelf
from dinomill.training.checkpoint_state import Stage, named_tensors, own_slices
from dinomill.training.checkpoint_writer import Saving, Writer
from dinomill.training.mirror import Mirror
from dinomill.training.parallel import World


class Checkpoints:
    """The checkpoints of one work folder; every process has one, and calls the same methods in the same order.

    Args:
        folder: ``<work>/checkpoints``.
        world: The processes.
        identity: The keys of the job on which the result depends. A checkpoint made with others is refused.
        keep: How many of the newest to keep, besides the best.
        keep_every: One every so many steps stays for good; 0: none.
        mirror: ``s3://`` prefix that complete checkpoints are copied to, and fetched from where the folder has none, or
            none that is whole.
    """

    def __init__(
        self,
        folder: Path,
        *,
        world: World,
        identity: Mapping[str, Any],
        keep: int = 2,
        keep_every: int = 0,
        mirror: str | None = None,
    ) -> None:
        self.shelf = Shelf(folder, keep=keep, keep_every=keep_every)
        self._world = world
        kept = json.loads(json.dumps(identity))
        self._mirror = None if mirror is None else Mirror(mirror, self.shelf)
        self._writer = Writer(self.shelf, world, kept, None if self._mirror is None else self._mirror.follow)
        self._reader = Reader(self.shelf, world, kept)
        self._together = Agreement(world)
        self._stage = Stage()
        self._passed: set[int] = set()  # checkpoints that are not taken: damaged, or beyond the end
        self._best: Best | None = None  # of the main process, which alone decides

    def newest(self) -> int:
        """The step of the newest checkpoint that is taken, as the main process sees it; 0 where there is none."""
        return self._together.decided(lambda: max({*self.shelf.steps()} - self._passed, default=0))

    def save(
        self,
        step: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        extra: Mapping[str, Any] | None = None,
        *,
        best: tuple[str, float] | None = None,
        last: bool = False,
    ) -> None:
        """Keep the state after ``step`` steps. It is copied now and written meanwhile; a write that fails is retried.

        Args:
            step: Optimiser steps done.
            module: Networks and centres.
            optimizer: Of the module's parameters.
            extra: Small plain values to be given back by ``load``.
            best: Measure and value, when this is the best so far.
            last: Nothing is trained meanwhile: return when it is written.

        Raises:
            StorageError: With ``last``, when the disk is full or not writable. Older checkpoints are untouched.
        """
        self.finish()  # the copy before is still being written: its memory is used again
        found = None if best is None else Best(step, *best)
        slices = self._stage.copy(own_slices(named_tensors(module, optimizer), self._world))
        self._best = found or self._best
        self._passed.discard(step)
        self._writer.start(Saving(step, slices, dict(extra or {}), found, last))
        if last:
            self._writer.finish(hurry=False)
            if self._writer.problem is not None:
                raise self._writer.problem

    def finish(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written, not longer than so; what could not be written until now is given up."""
        self._writer.finish(hurry=True, seconds=seconds)
        if self._writer.problem is not None:
            self._best = self.shelf.best()

    def load(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, *, until: int | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Load the newest usable checkpoint in place; the main process says which, all must be able to read it.

        Args:
            module: Networks and centres.
            optimizer: Of the module's parameters.
            until: None beyond this step is taken: a run that was made shorter ends there.

        Returns:
            Its step and the extra values that were saved with it; 0 and nothing when there is none.

        Raises:
            ConfigError: When the job differs from the checkpoint's in a key on which the result depends.
            InputError: When checkpoints are there and none can be read.
            StorageError: When a process cannot read what the main one can.
        """
        steps = self._together.decided(lambda: self._candidates(until))
        for step in reversed(steps):
            extra = self._reader.load(step, module, optimizer)
            if extra is not None:
                return step, extra
            self._passed.add(step)
        mirrored = self._together.decided(lambda: self._mirrored(until))
        for step in reversed(mirrored):
            self._together.decided(partial(self._fetch, step))
            extra = self._reader.load(step, module, optimizer)
            if extra is not None:
                self._passed.discard(step)
                return step, extra
            self._passed.add(step)
        if steps or mirrored:
            named = ", ".join(self.shelf.path(step).name for step in sorted({*steps, *mirrored}))
            also = "" if self._mirror is None else f", nor of those in {self._mirror.prefix}"
            raise InputError(
                f"No checkpoint in {self.shelf.folder} can be read{also}.",
                found=f"damaged: {named}",
                action=f"remove {self.shelf.folder}{' and what is there' if also else ''} to begin again",
            )
        return 0, {}

    def load_step(self, step: int, module: nn.Module) -> None:
        """Load the networks of one step, without the optimiser: for export. A damaged one is fetched from the mirror.

        Raises:
            InputError: When it is damaged, and the mirror has none.
        """
        if self._reader.load(step, module, None) is not None:
            return
        fetched = self._together.decided(lambda: step in self._mirrored(step) and self._fetch(step))
        if not fetched or self._reader.load(step, module, None) is None:
            raise InputError(
                f"The checkpoint {self.shelf.path(step)} of the best step is damaged.",
                action="set runtime.export to `last`, or remove best.json beside it",
            )

    def _candidates(self, until: int | None) -> list[int]:
        self._passed.update(step for step in self.shelf.steps() if until is not None and step > until)
        return [step for step in self.shelf.steps() if until is None or step <= until]

    def _mirrored(self, until: int | None) -> list[int]:
        """The steps that could be fetched; none without a mirror."""
        steps = [] if self._mirror is None else self._mirror.steps()
        return [step for step in steps if until is None or step <= until]

    def _fetch(self, step: int) -> bool:
        assert self._mirror is not None
        self._mirror.fetch(step)
        return True

    def is_best(self, name: str, value: float) -> bool:
        """Whether a measure is better than the best so far; another measure than the best's begins anew."""
        best = self._best
        return self._together.decided(lambda: best is None or best.measure != name or value > best.value)

    def best(self) -> Best | None:
        """The best checkpoint that is there, as the main process sees it, or None."""
        best = self._together.decided(lambda: None if (found := self.shelf.best()) is None else asdict(found))
        return None if best is None else Best(**best)

    def forget_after(self, step: int) -> None:
        """Forget a best that lies after ``step``: it will be measured again on the way."""
        best = self.shelf.best() if self._world.is_main else None
        if best is not None and best.step > step:
            self.shelf.forget_best()
            best = None
        self._best = best
