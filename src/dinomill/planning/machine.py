"""What this machine offers: processors, memory, disk and accelerators, as far as this process may use them.

A container or a job of a cluster often may use less than the machine has: what counts is the tightest of the affinity
mask, the control groups and the hardware itself.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from dinomill.config import Config

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # version 1 writes "no limit" as a number near 2⁶³
# Kernel flag: how we call it. Of AMX the half of matrix products in bfloat16 is what training uses.
_FLAGS = {"avx2": "avx2", "avx512f": "avx512", "avx512_bf16": "avx512_bf16", "amx_bf16": "amx"}


class Gpu(Config):
    """One accelerator."""

    name: str = Field(description="as its driver calls it")
    memory_bytes: int = Field(ge=0, description="of the device, bytes")
    bf16: bool = Field(description="whether it multiplies bfloat16")


class Machine(Config):
    """What this process may use."""

    cores: int = Field(ge=1, description="processors that may be used at once: affinity, control groups")
    processor: str = Field(description="its model, for people")
    memory_bytes: int = Field(ge=0, description="memory that may be used, bytes")
    free_memory_bytes: int = Field(ge=0, description="… and of that, what nobody uses now")
    disk_free_bytes: int = Field(ge=0, description="free on the disk that the results go to, bytes")
    instructions: tuple[str, ...] = Field(default=(), description="of avx2, avx512, avx512_bf16, amx")
    gpus: tuple[Gpu, ...] = Field(default=(), description="accelerators that torch sees")

    @property
    def bf16(self) -> bool:
        """Whether matrix products in bfloat16 are fast here: what `precision: auto` decides by."""
        if self.gpus:
            return all(gpu.bf16 for gpu in self.gpus)
        return bool({"avx512_bf16", "amx"} & set(self.instructions))

    def __str__(self) -> str:
        return self._said(f", {self.disk_free_bytes / 1e9:.0f} GB of free disk")

    @property
    def lasting(self) -> str:
        """What it is, without what changes from one minute to the next: for files that are compared."""
        return self._said("")

    def _said(self, disk: str) -> str:
        shown = f"{self.cores} cores ({', '.join(self.instructions) or 'no vector instructions known'})"
        shown += f", {self.memory_bytes / 1e9:.0f} GB of memory{disk}"
        names = [gpu.name for gpu in self.gpus]
        kinds = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
        return f"{shown}, {kinds or 'no GPU'}"


def survey(folder: Path = Path()) -> Machine:
    """Look at the machine.

    Args:
        folder: Where results will go; its disk is what counts. It need not exist yet.
    """
    limit, free = _memory()
    return Machine(
        cores=_cores(),
        processor=_processor(),
        memory_bytes=limit,
        free_memory_bytes=free,
        disk_free_bytes=shutil.disk_usage(_existing(folder)).free,
        instructions=_instructions(),
        gpus=_gpus(),
    )


def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in cpu_quotas())]))


def cpu_quotas(root: Path = _CGROUPS, member: Path = Path("/proc/self/cgroup")) -> list[float]:
    """Processors that each control group above this process allows; nothing where none limits them."""
    found = []
    for group in _groups(root, member, "cpu"):
        words = _read(group / "cpu.max").split()  # version 2: "<quota> <period>", or "max <period>"
        if not words:
            words = [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
            found.append(int(words[0]) / int(words[1]))
    return found


def _memory() -> tuple[int, int]:
    """Memory that may be used, and what of it is free, bytes."""
    import psutil

    memory = psutil.virtual_memory()
    limit, free = int(memory.total), int(memory.available)
    for allowed, used in memory_limits():
        limit, free = min(limit, allowed), min(free, max(allowed - used, 0))
    return limit, free


def memory_limits(root: Path = _CGROUPS, member: Path = Path("/proc/self/cgroup")) -> list[tuple[int, int]]:
    """The limit of each control group above this process and what is used of it, bytes.

    Pages of files that the kernel may drop at once do not count as used.
    """
    found = []
    for group in _groups(root, member, "memory"):
        for limit, current, droppable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            allowed = _read(group / limit)
            if not allowed.isdigit() or int(allowed) >= _UNLIMITED:
                continue
            statistics = dict(
                line.split(maxsplit=1) for line in _read(group / "memory.stat").splitlines() if " " in line
            )
            used = int(_read(group / current) or 0) - int(statistics.get(droppable, 0))
            found.append((int(allowed), max(used, 0)))
    return found


def _groups(root: Path, member: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that hold this process, from its own up to the root."""
    for line in _read(member).splitlines():
        number, controllers, name = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            top = root  # version 2: one tree for all
        elif controller in controllers.split(","):
            top = root / controller
        else:
            continue
        group = top / name.lstrip("/")
        for folder in (group, *group.parents):
            yield folder
            if folder == top:
                break


def _instructions() -> tuple[str, ...]:
    flags: set[str] = set()
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.split(":", 1)[1].split())
            break
    return tuple(name for flag, name in _FLAGS.items() if flag in flags)


def _processor() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[Gpu, ...]:
    import torch  # seconds: only where it is asked for

    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found.append(Gpu(name=device.name, memory_bytes=int(device.total_memory), bf16=device.major >= 8))
    return tuple(found)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    here = folder.absolute()
    return next(place for place in (here, *here.parents) if place.exists())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
