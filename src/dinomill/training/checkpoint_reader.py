"""Reading checkpoints: the main process says which, each process checks and reads its share, all take it or none."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from dinomill.errors import ConfigError, StorageError
from dinomill.training.agreement import Agreement
from dinomill.training.checkpoint_files import FORMAT, DamagedError, FileRecord, Parts, check_part, read_meta
from dinomill.training.checkpoint_shelf import Shelf
from dinomill.training.checkpoint_state import local_slices, named_tensors, prepare_moments
from dinomill.training.identity import differences
from dinomill.training.parallel import World

log = logging.getLogger(__name__)

Value = TypeVar("Value")

# A listing on a network file system may be some seconds old.
_STALE_SECONDS = 10.0


class Reader:
    """Reads the checkpoints of a shelf into networks; every process has one.

    Args:
        shelf: Where from.
        world: The processes.
        identity: The keys of the job on which the result depends. A checkpoint made with others is refused.
    """

    def __init__(self, shelf: Shelf, world: World, identity: Mapping[str, Any]) -> None:
        self._shelf, self._world, self._identity = shelf, world, identity
        self._together = Agreement(world)

    def load(self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any] | None:
        """Take over a checkpoint, when every process could read it whole.

        Returns:
            The extra values that were saved with it; None when it is damaged, which is said.

        Raises:
            ConfigError: When it was made by another job, or in another format.
            StorageError: When a process cannot read what the main one can.
        """
        meta = self._together.decided(lambda: self._meta(step))
        if meta is None or not self._read(step, meta, module, optimizer):
            return None
        return dict(meta["extra"])

    def _meta(self, step: int) -> dict[str, Any] | None:
        path = self._shelf.path(step)
        try:
            meta = read_meta(path)
            if meta.get("format") != FORMAT:
                raise ConfigError(
                    f"The checkpoint {path} has a format that this version does not read.",
                    found=f"format {meta.get('format')}",
                    expected=f"format {FORMAT}",
                    action=f"continue with the version that wrote it, or remove {self._shelf.folder} to begin again",
                )
            for record in meta["files"]:
                if not (path / record["name"]).is_file():
                    raise DamagedError(f"{path / record['name']} is missing")
        except (DamagedError, OSError, KeyError, TypeError) as error:
            _say_damaged(path, str(error))
            return None
        self._refuse_other_job(path, meta)
        return meta

    def _refuse_other_job(self, path: Path, meta: Mapping[str, Any]) -> None:
        changed = differences(meta["job"], self._identity)
        if changed:
            rows = "\n".join(f"    {key}: {old!r} in the checkpoint, {new!r} now" for key, old, new in changed)
            raise ConfigError(
                f"The checkpoint {path} was made by another job; these keys differ:\n{rows}",
                action=f"set the keys back to continue it, or remove {self._shelf.folder} to begin again with these",
            )

    def _read(
        self, step: int, meta: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer | None
    ) -> bool:
        """Read a checkpoint and take it over when every process could; whether it was sound."""
        path = self._shelf.path(step)
        records = [FileRecord(**record) for record in meta["files"]]
        problem, state, tensors = "", "sound", {}
        try:
            # The files are shared out for checking, and every process reads the parts that it needs.
            for record in records[self._world.rank :: self._world.size]:
                _patiently(partial(check_part, path, record))
            parts = _patiently(lambda: Parts(path, [record.name for record in records]))
            if optimizer is not None:
                prepare_moments(module, optimizer, parts.shapes)
            wanted = local_slices(named_tensors(module, optimizer))
            tensors = parts.read(wanted)
        except DamagedError as error:
            problem, state = str(error), "damaged"
        except OSError as error:
            problem, state = str(error), "unreadable"
        answers = self._together.gathered([state, problem, socket.gethostname()])
        self._refuse_unshared(path, answers)
        damage = next((problem for state, problem, _ in answers if state != "sound"), None)
        if damage is not None:
            if self._world.is_main:
                _say_damaged(path, damage)
            return False
        with torch.no_grad():
            for name, part in wanted.items():
                part.tensor.copy_(tensors[name])
        return True

    def _refuse_unshared(self, path: Path, answers: Sequence[Sequence[str]]) -> None:
        for rank, (state, problem, host) in enumerate(answers):
            if state == "unreadable" and answers[0][0] != "unreadable":
                raise StorageError(
                    f"Process {rank} on {host} cannot read the checkpoint {path}, which process 0 can.",
                    found=problem,
                    expected="a work folder that all machines share",
                    action="put `work` on a shared file system, see that it is mounted on that machine, and run the "
                    "same command again",
                )


def _patiently(read: Callable[[], Value]) -> Value:
    """Read something that another machine has written and this one may not see yet."""
    deadline = time.monotonic() + _STALE_SECONDS
    while True:
        try:
            return read()
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _say_damaged(path: Path, why: str) -> None:
    log.warning("THE CHECKPOINT %s IS DAMAGED AND IS NOT USED: %s. The one before is tried.", path, why)
