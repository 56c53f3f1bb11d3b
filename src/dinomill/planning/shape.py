"""How large everything is: crops, patches, networks, batch. What the images show bounds it, then what is affordable."""

from __future__ import annotations

import math

from pydantic import Field

from dinomill.config import Config
from dinomill.models.config import VisionTransformerConfig, variant
from dinomill.planning.choices import Start, Wish
from dinomill.planning.machine import Machine
from dinomill.planning.pool import Pool

# Two images chosen at random correlate by so much where the same thing lies at the same place. Measured: solar cells
# .56, garments .33; emoji, clip-art and stamps .16, tiles of a photograph .02.
ALIGNED = 0.25

TINY_SIDE = 48  # below it images are of the kind of the sample's: four patches a side
SMALL_SIDE = 96  # below it of the kind of icons
_SIZES = {"tiny": "tiny", "S": "small", "B": "base", "L": "large"}
_STUDENTS = {"tiny": "mini", "small": "tiny", "base": "small", "large": "base"}
_CACHE_SHARE = 0.15  # of the memory, for decoded images
_STARTED_GRID = 6  # patches a side at least, for weights that know images of 16 a side and more


class Shape(Config):
    """Sizes that follow from one another, decided once."""

    channels: int = Field(description="of the dataset and the networks")
    image_size: int = Field(description="side of the global crops, pixels")
    local_size: int = Field(description="side of the local crops, pixels")
    local_crops: int = Field(description="how many")
    patch: int = Field(description="side of a patch, pixels")
    teacher: VisionTransformerConfig = Field(description="shape of the teacher")
    teacher_size: str = Field(description="its name in models/config.py, or of the weights")
    student: VisionTransformerConfig = Field(description="shape of the student")
    batch: int = Field(description="images a step, over all processes and micro-batches")
    accumulate: int = Field(default=1, description="micro-batches of a step of pretraining")
    processes: int = Field(description="that train together")
    embedder_size: int = Field(description="side at which curation's network sees images, pixels")
    aligned: bool = Field(description="whether the same thing is always at the same place")

    @property
    def tiny(self) -> bool:
        """Whether the images are of the kind of the sample's."""
        return self.image_size < TINY_SIDE

    @property
    def grid(self) -> int:
        """Patches a side of a global crop."""
        return self.image_size // self.patch

    def flops(self, model: VisionTransformerConfig, pixels: int) -> float:
        """Floating-point operations of one forward pass of an image of so many pixels a side, heads aside."""
        tokens = (pixels // self.patch) ** 2 + 1
        weights = 12 * model.embed_dim**2 * model.depth + model.in_channels * self.patch**2 * model.embed_dim
        return 2.0 * tokens * weights + 4.0 * model.depth * model.embed_dim * tokens**2


def decide(wish: Wish, pool: Pool, machine: Machine) -> Shape:
    """All sizes of a run."""
    start = wish.start
    channels = start.in_channels if start is not None else pool.channels
    image_size, patch = _sides(pool, machine, wish.hours) if start is None else _started_sides(pool, machine, start)
    grid = image_size // patch
    local_grid = max(1, grid // 2 if image_size < SMALL_SIDE else math.floor(0.4375 * grid))
    name = _name(wish, pool, machine, image_size)
    common: dict[str, object] = {
        "image_size": image_size,
        "patch_size": patch,
        "in_channels": channels,
        "interpolate_offset": 0.0,
    }
    if start is None:
        teacher = variant(name, **common)
    else:
        heads = max(start.embed_dim // 64, 1)
        teacher = VisionTransformerConfig.parse(
            {**common, "embed_dim": start.embed_dim, "depth": start.depth, "num_heads": heads},
            where=start.address,
        )
    # Of a teacher that is given the student has the hours to itself, and the size of what would be pretrained in them.
    student = teacher if wish.teacher else _student(teacher, common, small=start is not None and not machine.gpus)
    processes = max(len(machine.gpus), 1)
    batch = _batch(pool, machine, teacher, image_size, processes, started=start is not None)
    return Shape(
        channels=channels,
        image_size=image_size,
        local_size=local_grid * patch,
        local_crops=8 if machine.gpus and image_size >= SMALL_SIDE else 4,
        patch=patch,
        teacher=teacher,
        teacher_size=name,
        student=student,
        batch=batch,
        accumulate=_accumulate(batch, machine, teacher, started=start is not None),
        processes=processes,
        embedder_size=64 if pool.short_side.median < TINY_SIDE else 128 if pool.short_side.median < SMALL_SIDE else 224,
        aligned=pool.alignment >= ALIGNED,
    )


def _cap(machine: Machine, hours: float) -> int:
    """The side that the machine can afford, pixels."""
    return 224 if machine.gpus or hours >= 12 * 8 / max(machine.cores, 1) else 112


def _sides(pool: Pool, machine: Machine, hours: float) -> tuple[int, int]:
    """Side of the global crops and of a patch: no more than half of the images show."""
    side = int(pool.short_side.median)
    if side < TINY_SIDE:
        patch = min(8, max(2, side // 4))
        return side // patch * patch, patch
    if side < SMALL_SIDE:
        return min(64, side // 8 * 8), 8
    return min(_cap(machine, hours), side // 14 * 14), 14


def _started_sides(pool: Pool, machine: Machine, start: Start) -> tuple[int, int]:
    """The same for given weights, whose patch is what it is."""
    patch = start.patch_size
    affordable = min(224 if machine.gpus else 112, max(start.image_size, patch)) // patch
    shown = int(pool.short_side.median) // patch
    grid = min(max(shown, _STARTED_GRID), max(affordable, 1))
    return grid * patch, patch


def _name(wish: Wish, pool: Pool, machine: Machine, image_size: int) -> str:
    """The name of the teacher's size."""
    if wish.start is not None:
        return wish.start.family
    if wish.size is not None:
        return _SIZES[wish.size]
    if machine.gpus:
        by_images = "tiny" if pool.distinct < 20_000 else "small" if pool.distinct < 500_000 else "base"
        by_images = "large" if pool.distinct >= 5_000_000 else by_images
        by_time = "small" if wish.hours * len(machine.gpus) < 8 else "base"
        by_time = "large" if wish.hours * len(machine.gpus) >= 100 else by_time
        order = ("tiny", "small", "base", "large")
        return min(by_images, by_time, key=order.index)
    core_hours = wish.hours * machine.cores
    if image_size < TINY_SIDE:
        return "micro" if core_hours < 1 else "mini"
    return "micro" if core_hours < 0.5 else "mini" if core_hours < 24 else "tiny" if core_hours < 100 else "small"


def _student(teacher: VisionTransformerConfig, common: dict[str, object], *, small: bool) -> VisionTransformerConfig:
    """A shape well below the teacher's."""
    dim = teacher.embed_dim
    if dim <= 128:
        return variant("micro" if dim == 128 else "nano", **common, depth=max(teacher.depth // 2, 1))
    if dim <= 192 and teacher.depth <= 6:
        return variant("micro", **common, depth=3)
    name = "mini" if dim < 384 or (small and dim == 384) else "tiny" if dim < 768 else "small" if dim < 1024 else "base"
    return variant(name, **common)


def _batch(
    pool: Pool,
    machine: Machine,
    teacher: VisionTransformerConfig,
    image_size: int,
    processes: int,
    *,
    started: bool,
) -> int:
    """Images a step: many small steps on a processor, what fits on accelerators; a quarter of the images at most."""
    if machine.gpus:
        memory = min(gpu.memory_bytes for gpu in machine.gpus) / 40e9
        roomy = {192: 256, 384: 128, 768: 64}.get(teacher.embed_dim, 256 if teacher.embed_dim < 192 else 32)
        each = roomy * min(memory, 2.0) * min((224 / image_size) ** 2, 4.0)
        wanted = power_of_two(max(each, 1)) * processes
    elif image_size < TINY_SIDE and not started:
        wanted = 128
    elif (image_size < SMALL_SIDE and not started) or started:
        wanted = 64
    else:
        wanted = 32 if teacher.embed_dim < 768 else 16
    while wanted > max(pool.distinct // 4, 2) and wanted >= 2 * processes and wanted > 2:
        wanted //= 2
    return max(wanted // processes, 1) * processes


def cache_megabytes(pool: Pool, machine: Machine, shape: Shape) -> int:
    """Memory for decoded images: for all of them where that is a small share of what there is."""
    needed = 1.3 * pool.decoded_bytes(shape.channels)  # the sample may have drawn small ones
    return int(min(max(512e6, needed), max(512e6, _CACHE_SHARE * machine.memory_bytes)) / 1e6)


def _accumulate(batch: int, machine: Machine, teacher: VisionTransformerConfig, *, started: bool) -> int:
    """Micro-batches of a step: targets and rate want a batch that a processor's memory is better off without."""
    if machine.gpus or not started:
        return 1
    micro = 32 if teacher.embed_dim < 768 else 16
    return max(batch // micro, 1)


def power_of_two(number: float) -> int:
    """The largest power of two that is not above it."""
    return 1 << max(int(math.log2(number)), 0)
