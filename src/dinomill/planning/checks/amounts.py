"""Memory and disk: what will be needed at the least, against what this machine has.

The figures are bounds from below, from the shapes alone: a run that does not even fit by them is refused, one that
comes near is warned of.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from dinomill.distillation.students import resolve_students
from dinomill.errors import DinomillError
from dinomill.models.config import HeadConfig, VisionTransformerConfig
from dinomill.planning.checks.images import look_at_pool
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request
from dinomill.planning.checks.shapes import teacher_model, teacher_shape
from dinomill.planning.outlook import size
from dinomill.planning.pool import Pool

_FLOAT = 4  # bytes
_COPIES = 5  # of each parameter: student, its gradient, two moments of AdamW, the teacher's average
_KEPT = 10  # values of the width of a token that a block keeps for its backward pass, at least
_TIGHT = 0.6  # share of the memory from which on the bound from below warns: real runs took 1.7 times as much
_LOOK_CLOSER = 0.25  # of the machine's memory: below it nothing is asked of torch, which takes seconds to load
_FULL = 0.9  # share of the free disk
_FEATURES = 2 * 1280 + 256 + 1024  # bytes an image: an embedding, a signature, rows of tables


def check_amounts(request: Request) -> Iterator[Problem]:
    """Memory of the two trainings, disk of all."""
    for stage in ("pretraining", "distillation"):
        if request.runs(stage) and getattr(request, stage):
            yield from _memory(request, stage)
    yield from _disk(request)


def _memory(request: Request, stage: str) -> Iterator[Problem]:
    import psutil

    config = getattr(request, stage)
    least = least_memory(request, stage)
    if least is None or config.launcher.elsewhere:
        return
    processes = config.launcher.processes if config.launcher.several_nodes else config.launcher.world_size
    if least * processes < _LOOK_CLOSER * psutil.virtual_memory().total and config.runtime.device != "cuda":
        return
    has, where = _has(config.runtime.device, processes)
    if least <= _TIGHT * has:
        return
    fits = least <= has
    yield Problem(
        f"{stage}.batch_size",
        f"{stage} {'will hardly' if fits else 'cannot'} fit into memory.",
        found=f"at least {size(least)} for {config.batch_size // processes // config.accumulate} images at once; "
        f"{size(has)} {where}",
        action=f"raise {stage}.accumulate (micro-batches: the same step in less memory), "
        f"{stage}.step.recomputed_blocks, or take a smaller model, fewer prototypes or smaller crops",
        warning=fits,
    )


def _has(device: str, processes: int) -> tuple[int, str]:
    """Memory for each process, bytes, and what that is a part of."""
    from dinomill.planning.machine import survey

    machine = survey()
    if machine.gpus and device != "cpu":
        return min(gpu.memory_bytes for gpu in machine.gpus), "on the GPU"
    return machine.memory_bytes // processes, "here" if processes == 1 else "here for each process"


def least_memory(request: Request, stage: str) -> int | None:
    """Bytes that a process of a training needs at the least; None when its shape is not known."""
    config = getattr(request, stage)
    batch = max(config.batch_size // config.launcher.world_size // config.accumulate, 1)
    kept = _KEPT * (1 - config.step.recomputed_blocks)
    total = 0.0
    for shape in _shapes(request, stage):
        total += _COPIES * _FLOAT * (parameters(shape) + _head_parameters(shape, config.step.head, config.step))
        total += _FLOAT * kept * shape.depth * shape.embed_dim * batch * _tokens(config.crops, shape.patch_size)
    return int(total) or None


def _shapes(request: Request, stage: str) -> list[VisionTransformerConfig]:
    """The networks that a stage trains, as far as they are known and valid."""
    if stage == "pretraining":
        model = teacher_model(request)
        return [model] if isinstance(model, VisionTransformerConfig) else []
    teacher, config = teacher_shape(request), request.distillation
    if teacher is None or config is None:
        return []
    try:
        return list(resolve_students(config, teacher, "teacher").values())
    except DinomillError:  # said by `shapes`
        return []


def parameters(shape: VisionTransformerConfig) -> int:
    """About how many numbers a backbone has."""
    block = 4 * shape.embed_dim**2 + (3 if shape.ffn == "swiglu" else 2) * shape.embed_dim * shape.hidden_dim
    return shape.depth * block + shape.embed_dim * (shape.grid**2 + 3 * shape.patch_size**2)


def _head_parameters(shape: VisionTransformerConfig, head: HeadConfig, step: Any) -> int:
    one = head.hidden_dim * (shape.embed_dim + head.hidden_dim + head.bottleneck_dim)
    one += head.bottleneck_dim * head.prototypes
    return one * (2 if step.separate_heads else 1)


def _tokens(crops: Any, patch: int) -> int:
    """Of one image's crops."""
    globals_, locals_ = (crops.global_size // patch) ** 2 + 1, (crops.local_size // patch) ** 2 + 1
    return int(2 * globals_ + crops.local_crops * locals_)


def _disk(request: Request) -> Iterator[Problem]:
    """What will be written, against what is free on the disk that it goes to."""
    needed, parts = 0, []
    if request.runs("curation") and request.pool and not any(map(request.will_be_made, request.pool)):
        pool = look_at_pool(request)
        if isinstance(pool, Pool):
            # DVC keeps a copy of what a stage made in its cache.
            curated = 2 * pool.bytes + pool.images * _FEATURES
            needed += curated
            parts.append(f"{size(curated)} for the curated images and their features")
    for stage in ("pretraining", "distillation"):
        if request.runs(stage) and (config := getattr(request, stage)):
            checkpoints = (config.runtime.keep + 1) * _checkpoint(request, stage)
            needed += checkpoints
            parts.append(f"{size(checkpoints)} for the checkpoints of {stage}")
    folder = request.folders.get("curated") or request.work
    here = folder.absolute()
    free = shutil.disk_usage(next(place for place in (here, *here.parents) if place.exists())).free
    if needed <= _FULL * free:
        return
    yield Problem(
        "folders.curated",
        "The disk is too small for what will be written." if needed > free else "The disk will be nearly full.",
        found=f"{size(free)} free at {folder}; about {', '.join(parts)}",
        action="free some space (`dvc gc --workspace` and data/work give the most back), or set `work` to a folder "
        "on another disk",
        warning=needed <= free,
    )


def _checkpoint(request: Request, stage: str) -> int:
    """Bytes of a checkpoint: student, teacher and two moments."""
    step = getattr(request, stage).step
    numbers = sum(parameters(one) + _head_parameters(one, step.head, step) for one in _shapes(request, stage))
    return (_COPIES - 1) * _FLOAT * numbers
