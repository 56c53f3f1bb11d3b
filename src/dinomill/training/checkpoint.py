"""Checkpoints of a training: whole or absent, readable by any number of processes, exact to the last bit.

    <work>/checkpoints/
      step_00000400/            written as .step_00000400.tmp by all ranks, renamed when all have finished
        meta.json               step, the job that made it, the best measure so far, versions
        .metadata  __0_0.distcp torch.distributed.checkpoint: networks, centres, optimiser
      step_00000500/            the newest `keep` stay
      best.json                 the step that the monitor measured best; its checkpoint stays as well

There is no random number state to keep: every step seeds its generators from (seed, step, rank), the order of the
images is a function of (seed, epoch, step), and so the step number is the whole position.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from dinomill.errors import ConfigError, InputError
from dinomill.storage.atomic import storage_errors, write_text

log = logging.getLogger(__name__)

# Raised when the names of the tensors or the meaning of meta.json change.
FORMAT = 1

_MISSING = "(not there)"


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself."""

    step: int  # optimiser steps done; also the position in the data
    job: dict[str, Any]  # the keys of the job that must not change
    world_size: int
    extra: dict[str, Any]  # small plain values that the loop continues with
    format: int = FORMAT
    torch: str = torch.__version__


class Checkpoints:
    """The checkpoints of one work folder.

    Args:
        folder: ``<work>/checkpoints``.
        keep: How many of the newest to keep, besides the best.
        identity: The keys of the job on which the result depends. A checkpoint made with others is refused.
    """

    def __init__(self, folder: Path, *, keep: int, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._keep = keep
        self._identity = json.loads(json.dumps(identity))

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        return sorted(int(path.parent.name.removeprefix("step_")) for path in self.folder.glob("step_*/meta.json"))

    def save(
        self,
        step: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the state after ``step`` steps; every rank must call it.

        Args:
            step: Optimiser steps done.
            module: Networks and centres.
            optimizer: Of the module's parameters.
            extra: Small plain values to be given back by ``load``.

        Raises:
            StorageError: When the disk is full or not writable. Older checkpoints are untouched.
        """
        target = self._path(step)
        temporary = target.with_name(f".{target.name}.tmp")
        with storage_errors(target):
            if _rank() == 0:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
        _barrier()
        _write(_state(module, optimizer), temporary)
        if _rank() == 0:
            meta = Meta(step, self._identity, _world_size(), dict(extra or {}))
            write_text(temporary / "meta.json", json.dumps(asdict(meta), indent=2))
            with storage_errors(target):
                # The same step again: a run that was continued from before it and is bit for bit the same.
                shutil.rmtree(target, ignore_errors=True)
                temporary.rename(target)
            self._prune()
        _barrier()

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
        """Load the newest usable checkpoint in place.

        Returns:
            Its step and the extra values that were saved with it; 0 and nothing when there is none.

        Raises:
            ConfigError: When the job differs from the checkpoint's in a key on which the result depends.
            InputError: When checkpoints are there and none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            extra = self._refuse_other_job(self._path(step))
            try:
                self._read(step, module, optimizer)
            except (CheckpointException, OSError, EOFError, RuntimeError, ValueError) as error:
                # A bad disk or a copy that broke off. The one before gives the same result, a little later.
                log.warning("The checkpoint %s cannot be read (%s); trying the one before.", self._path(step), error)
                continue
            return step, extra
        if steps:
            raise InputError(
                f"No checkpoint in {self.folder} can be read.",
                found=f"{len(steps)} damaged: {', '.join(self._path(step).name for step in steps)}",
                action=f"remove {self.folder} to begin again from the first step",
            )
        return 0, {}

    def load_step(self, step: int, module: nn.Module) -> None:
        """Load the networks of one step, without the optimiser: for export."""
        state = {"module": get_model_state_dict(module)}
        _load(state, self._path(step))
        set_model_state_dict(module, state["module"])

    def is_best(self, name: str, value: float) -> bool:
        """Whether a measure is better than the best so far; another measure than the best's begins anew."""
        best = self.best()
        return best is None or best[1] != name or value > best[2]

    def mark_best(self, step: int, name: str, value: float) -> None:
        """Remember ``step`` as the best; the checkpoint of that step must have been saved."""
        if _rank() == 0:
            row = {"step": step, "measure": name, "value": value}
            write_text(self.folder / "best.json", json.dumps(row))
            self._prune()

    def best(self) -> tuple[int, str, float] | None:
        """Step, measure and value of the best checkpoint, or None."""
        path = self.folder / "best.json"
        if not path.exists():
            return None
        row = json.loads(path.read_text(encoding="utf-8"))
        if row["step"] not in self.steps():
            return None
        return row["step"], row["measure"], row["value"]

    def forget_after(self, step: int) -> None:
        """Forget a best that lies after ``step``: it will be measured again on the way."""
        best = self.best()
        if _rank() == 0 and best is not None and best[0] > step:
            (self.folder / "best.json").unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def _read(self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        state = _state(module, optimizer)
        _load(state, self._path(step))
        set_model_state_dict(module, state["module"])
        set_optimizer_state_dict(module, optimizer, state["optimizer"], options=_OPTIONS)

    def _prune(self) -> None:
        best = self.best()
        kept = {*self.steps()[-self._keep :], *([best[0]] if best else [])}
        for step in self.steps():
            if step not in kept:
                # Without its meta.json a folder does not count, so a removal that breaks off leaves nothing half valid.
                (self._path(step) / "meta.json").unlink()
        for path in [*self.folder.glob("step_*"), *self.folder.glob(".step_*.tmp")]:
            if not (path / "meta.json").exists():
                shutil.rmtree(path, ignore_errors=True)

    def _refuse_other_job(self, path: Path) -> dict[str, Any]:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise ConfigError(
                f"The checkpoint {path} has a format that this version does not read.",
                found=f"format {meta['format']}",
                expected=f"format {FORMAT}",
                action=f"continue with the version that wrote it, or remove {self.folder} to begin again",
            )
        changed = differences(meta["job"], self._identity)
        if changed:
            rows = "\n".join(f"    {key}: {old!r} in the checkpoint, {new!r} now" for key, old, new in changed)
            raise ConfigError(
                f"The checkpoint {path} was made by another job; these keys differ:\n{rows}",
                action=f"set the keys back to continue it, or remove {self.folder} to begin again with the new ones",
            )
        extra: dict[str, Any] = meta["extra"]
        return extra


def differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted keys in which two nested mappings differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            row
            for key in keys
            for row in differences(old.get(key, _MISSING), new.get(key, _MISSING), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [(prefix, old, new)]


# Parameter groups by parameter name, so that neither their order nor their fusion matters.
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=False)


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "module": get_model_state_dict(module),
        "optimizer": get_optimizer_state_dict(module, optimizer, options=_OPTIONS),
    }


def _write(state: dict[str, Any], folder: Path) -> None:
    try:
        with _quiet():
            state_dict_saver.save(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    except (CheckpointException, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        with storage_errors(folder):
            raise _cause(error) from None


def _load(state: dict[str, Any], folder: Path) -> None:
    with _quiet():
        state_dict_loader.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())


@contextmanager
def _quiet() -> Iterator[None]:
    # It warns at every call that there is only one process, which is then as intended.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _cause(error: BaseException) -> BaseException:
    """The disk's own error inside the wrapping of torch.distributed.checkpoint, so that it can be explained."""
    if isinstance(error, CheckpointException):
        for wrapped in error.failures.values():
            inner = wrapped[0] if isinstance(wrapped, tuple) else wrapped
            if isinstance(inner, OSError):
                return inner
            # The writer reports a short write of its archive as a RuntimeError without a number.
            if "No space left" in str(inner) or "file write failed" in str(inner):
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return error


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
