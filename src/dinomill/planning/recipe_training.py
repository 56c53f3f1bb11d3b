"""The values of pretraining and distillation."""

from __future__ import annotations

from typing import Any

from dinomill.models.config import VisionTransformerConfig
from dinomill.planning.choices import Choice, Choices, Given, Wish, in_words
from dinomill.planning.machine import Machine
from dinomill.planning.pool import Pool
from dinomill.planning.prediction import Steps
from dinomill.planning.recipe_crops import crops
from dinomill.planning.recipe_schedule import LONG, momentum, optimizer, short_schedule, started_schedule
from dinomill.planning.shape import Shape, cache_megabytes, power_of_two

FEWEST_PROTOTYPES = 64
_TINY_SIDE = 64  # of garments; solar cells of 112 pixels, grey and aligned as well, gained


def pretraining(wish: Wish, pool: Pool, machine: Machine, shape: Shape, steps: Steps, bound: str) -> Choices:
    """The teacher."""
    count = steps.pretraining
    epochs = count * shape.batch / max(pool.distinct, 1)
    choices: Choices = {
        "steps": Choice(count, f"{epochs:.1f} epochs of {pool.distinct:,} images: {bound}"),
        "batch_size": Choice(shape.batch, _batch_reason(pool, machine, shape)),
        **_accumulate(shape),
        **_model(wish, pool, machine, shape, count),
        "step.head.hidden_dim": Choice(
            1024 if wish.start is not None else _hidden(shape.teacher), "the heads' width goes with the model's"
        ),
        "step.head.bottleneck_dim": Choice(_bottleneck(shape.teacher), "the paper's 256 is for networks from S on"),
        "step.head.prototypes": _prototypes(wish, pool),
        "step.separate_heads": Choice(
            wish.start is None,
            "a head of its own for patches, as in the long recipe"
            if wish.start is None
            else "one head for class token and patches: new heads are the dearest part of a short adaptation",
        ),
        "step.drop_path": Choice(*_drop_path(wish, shape, count)),
        **_compile(machine, wish),
        **crops(wish, pool, shape),
        "masking.min_patches": Choice(2 if shape.grid < 10 else 4, f"patches of a block, of {shape.grid**2} in a crop"),
        **(short_schedule(shape, count) if wish.start is None else started_schedule(shape, count)),
        **optimizer(wish, shape, count),
        **_runtime(wish, pool, machine, shape, steps, count),
    }
    return {f"pretraining.{key}": choice for key, choice in choices.items()}


def distillation(wish: Wish, pool: Pool, machine: Machine, shape: Shape, steps: Steps, bound: str) -> Choices:
    """The student."""
    count = steps.distillation
    epochs = count * shape.batch / max(pool.distinct, 1)
    student = shape.student
    values: dict[str, tuple[Any, str]] = {
        "champion": ("small", "the only student"),
        "steps": (count, f"{epochs:.1f} epochs: the rest of the hours, a third of the training"),
        "batch_size": (shape.batch, "as in pretraining"),
        **_student(student),
        "step.head.hidden_dim": (_hidden(student), "the heads' width goes with the model's"),
        "step.head.bottleneck_dim": (_bottleneck(student), "goes with the student's width"),
        "step.patch_share": (0.25, "of the patches in the loss; the rest would cost more than it teaches"),
        "crops.global_size": (shape.image_size, "as in pretraining"),
        "crops.global_scale": ([0.6, 1.0], "milder than in pretraining: the teacher says what is to be seen"),
        "crops.local_size": (shape.local_size, "as in pretraining"),
        "crops.local_scale": ([0.3, 0.8], "as above"),
        "crops.local_crops": (2, "a student learns from the teacher's views: more of them cost time and teach little"),
        "crops.aspect": ([0.83, 1.2], "as above"),
        "crops.brightness": (0.3, "as above"),
        "crops.contrast": (0.3, "as above"),
        "crops.blur": ([0, 0, 0], "none: what the teacher sees is what is learnt"),
        "crops.solarise": (0, "none, as above"),
        "schedule.learning_rate": (
            4e-3 if student.embed_dim <= 192 else 2e-3,
            "at 1,024 images a step, by square root",
        ),
        "schedule.momentum": (momentum(count), f"of the average that is kept, over {count:,} steps"),
        "schedule.teacher_temperature_start": (0.06, "no warmup: the teacher is finished"),
        "schedule.teacher_temperature": (0.06, "as in pretraining"),
        "schedule.weight_decay_end": (0.2, "as in the long recipe"),
        "optimizer.layerwise_decay": (1.0, "the student starts from nothing"),
        "optimizer.patch_embed_multiplier": (1.0, "as above"),
    }
    choices = {key: Choice(*pair) for key, pair in values.items()}
    if wish.teacher is not None:
        own = _given(wish.teacher, shape, count, f"{epochs:.1f} epochs of {pool.distinct:,} images: {bound}")
        said = {key: Choice(one.value, _ALONE.get(key, one.reason)) for key, one in choices.items()}
        choices = {**own, **{key: one for key, one in said.items() if key != "steps"}}
        choices["batch_size"] = Choice(shape.batch, _batch_reason(pool, machine, shape))
        choices["crops.global_size"] = Choice(shape.image_size, _size_reason(pool, shape))
    choices |= _drawn("students.small", shape, count)
    choices |= _runtime(wish, pool, machine, shape, steps, count) | _compile(machine, wish)
    return {f"distillation.{key}": choice for key, choice in choices.items()}


# What is said otherwise where nothing is pretrained.
_ALONE = {
    "crops.global_scale": "mild: the teacher says what is to be seen",
    "crops.local_size": "pixels; half of a large crop, or a little less",
    "schedule.teacher_temperature": "as at the start",
    "students.small.image_size": "the crops' side",
    "students.small.patch_size": "pixels; it need not be the teacher's",
    "students.small.embed_dim": "numbers a token: the size that can be trained in these hours",
}


def _given(teacher: Given, shape: Shape, count: int, why: str) -> Choices:
    """Who teaches, and at which size it sees the images."""
    number = f", {teacher.parameters / 1e6:.1f} M parameters" if teacher.parameters else ""
    choices: Choices = {"teacher": Choice(teacher.address, f"{teacher.family}{number}; nothing is pretrained")}
    if teacher.licence_stated:
        choices["licence"] = Choice(teacher.licence, "of the teacher, as stated")
    patch = teacher.patch_size or 32
    side = max(min(shape.embedder_size, teacher.image_size) // patch, 1) * patch
    if teacher.any_size and side != teacher.image_size:
        reason = f"pixels at which the teacher sees the images, which show no more; by itself {teacher.image_size}"
        choices["teacher_size"] = Choice(side, reason)
    return choices | {"steps": Choice(count, why)}


def prototypes(images: int) -> int:
    """Directions that images are assigned to: never more than there are images."""
    fewest = min(FEWEST_PROTOTYPES, power_of_two(max(images, 2)))
    return min(max(power_of_two(max(images / 8, 1)), fewest), 65_536)


def _prototypes(wish: Wish, pool: Pool) -> Choice:
    # What the seeds keep is known after curation only; more prototypes than images would leave most of them unused.
    images = pool.distinct // 3 if wish.seeds else pool.distinct
    count = prototypes(images)
    of = f"{images:,} images" + (", if seeds keep a third" if wish.seeds else "")
    if count > images / 8:
        few = "fewer would hardly tell images apart"
        return Choice(count, few if count == FEWEST_PROTOTYPES else f"no more than there are images: {of}")
    return Choice(count, f"one for about eight of {of}")


def _batch_reason(pool: Pool, machine: Machine, shape: Shape) -> str:
    if shape.accumulate > 1:
        return "images a step, which targets and rate refer to"
    if shape.batch * 2 > max(pool.distinct // 4, 2):
        return f"images a step; more than a quarter of {pool.distinct:,} would be too alike from step to step"
    if machine.gpus:
        return f"images a step on {len(machine.gpus)} GPU(s) of {machine.gpus[0].memory_bytes / 1e9:.0f} GB"
    return "images a step; many small steps teach more than few large ones in short runs"


def _model(wish: Wish, pool: Pool, machine: Machine, shape: Shape, count: int) -> Choices:
    if wish.start is not None:
        start = wish.start
        return {
            "initial": Choice(start.address, f"{start.family}, {start.parameters / 1e6:.0f} M parameters"),
            "model": Choice("from_weights", "shape, normalisation and pooling come from the weights"),
            **({"licence": Choice(start.licence, "of the weights, as stated")} if start.licence_stated else {}),
        }
    teacher = shape.teacher
    why = f"numbers a token, a ViT of size {shape.teacher_size} {_asked(wish, pool, machine)}"
    return {
        "model.image_size": Choice(shape.image_size, _size_reason(pool, shape)),
        "model.patch_size": Choice(shape.patch, f"{shape.grid} × {shape.grid} patches"),
        "model.in_channels": Choice(shape.channels, "the dataset's"),
        "model.embed_dim": Choice(teacher.embed_dim, why),
        "model.depth": Choice(teacher.depth, "as above"),
        "model.num_heads": Choice(teacher.num_heads, "64 numbers a head"),
        "model.registers": Choice(0, "they pay for large networks trained for long"),
        "model.layerscale": Choice(*_layerscale(count)),
        "model.interpolate_offset": Choice(0, "positions are resized by size alone"),
        "model.pooling": Choice("cls+mean_patch", "what an image's embedding is, from here to the server"),
        **_drawn("model", shape, count),
    }


def _drawn(key: str, shape: Shape, count: int) -> Choices:
    """How weights are drawn; measured in runs of some hundred steps, at 32 and 112 pixels (docs/pretraining.md)."""
    if count >= LONG:
        why = "as published, for long runs"
    elif shape.aligned and shape.channels == 1 and shape.image_size <= _TINY_SIDE:
        why = "as published: on small grey images of things at one place, whitened patches took points away"
    else:
        return {
            f"{key}.patch_init": Choice(
                "whitened", "few steps do not undo that a random draw passes on low frequencies"
            ),
            f"{key}.linear_init": Choice("lecun_normal", "the published 0.02 is made for networks ten times as wide"),
        }
    return {f"{key}.patch_init": Choice("random", why), f"{key}.linear_init": Choice("trunc_normal", why)}


def _asked(wish: Wish, pool: Pool, machine: Machine) -> str:
    if wish.size is not None:
        return f"by --size {wish.size}"
    return f"for {pool.distinct:,} images and {in_words(wish.hours)} on {len(machine.gpus) or machine.cores} " + (
        "GPU(s)" if machine.gpus else "cores"
    )


def _size_reason(pool: Pool, shape: Shape) -> str:
    side = pool.short_side.median
    if shape.image_size + shape.patch > side:
        return f"pixels, in whole patches: half of the images are {side:.0f} or less on their shorter side"
    return f"pixels; the images show {side:.0f}, but this machine can afford no more in the time"


def _layerscale(count: int) -> tuple[float, str]:
    if count < LONG:
        return 1.0, "1e-5, made for hundred thousands of steps, would take most of a short run to grow"
    return 1e-5, "as published, for long runs"


def _student(student: VisionTransformerConfig) -> dict[str, tuple[Any, str]]:
    values: dict[str, tuple[Any, str]] = {
        "image_size": (student.image_size, "the teacher's crops"),
        "patch_size": (student.patch_size, "the teacher's: both learn from the same patches"),
        "in_channels": ("auto", "the teacher's, whichever teaches"),
        "embed_dim": (student.embed_dim, "smaller than the teacher, in width or depth, since it is what is served"),
        "depth": (student.depth, "as above"),
        "num_heads": (student.num_heads, "64 numbers a head"),
        "layerscale": (1.0, "a short run starts with open gains"),
        "interpolate_offset": (0, "positions are resized by size alone"),
        "pooling": ("cls+mean_patch", "what an image's embedding is"),
    }
    return {f"students.small.{key}": pair for key, pair in values.items()}


def _hidden(model: VisionTransformerConfig) -> int:
    return 2048 if model.embed_dim >= 384 else max(512, 4 * model.embed_dim)


def _bottleneck(model: VisionTransformerConfig) -> int:
    return 256 if model.embed_dim >= 384 else 128


def _drop_path(wish: Wish, shape: Shape, count: int) -> tuple[float, str]:
    if wish.start is not None or count < LONG or shape.teacher.embed_dim < 384:
        return 0, "none: it spares networks that are large and trained for long"
    return (
        0.3 if shape.teacher.embed_dim > 384 else 0.1,
        "share of images that skip a branch, as published for long runs",
    )


def _compile(machine: Machine, wish: Wish) -> Choices:
    if machine.gpus and wish.hours >= 2:
        return {"step.compile": Choice(True, "minutes at the start, then faster steps")}
    return {}


def _accumulate(shape: Shape) -> Choices:
    if shape.accumulate == 1:
        return {}
    each = shape.batch // shape.accumulate
    return {"accumulate": Choice(shape.accumulate, f"micro-batches of {each}, which need less memory")}


def _runtime(wish: Wish, pool: Pool, machine: Machine, shape: Shape, steps: Steps, count: int) -> Choices:
    every = max(count // max(steps.looks, 1), 1)
    decoded, cache = pool.decoded_bytes(shape.channels), cache_megabytes(pool, machine, shape)
    values: dict[str, tuple[Any, str]] = {
        "runtime.log_every": (max(1, min(50, count // 40)), "steps between two rows of the curve"),
        "runtime.checkpoint_every": (every, "steps; a killed run loses no more"),
        "runtime.monitor.every": (every, f"steps: {steps.looks} looks, a hundredth of the time"),
        "runtime.monitor.images": (max(16, min(steps.look_images, pool.distinct)), "images a look"),
        "runtime.monitor.labelled_images": (
            max(20, steps.look_labelled or 20),
            "labelled images a look, where there are",
        ),
        "runtime.loader.cache_mb": (cache, f"decoded images stay in memory; all of them are {decoded / 1e6:,.0f} MB"),
        "launcher.kind": (
            "torchrun" if shape.processes > 1 else "inline",
            f"{shape.processes} GPUs, a process each" if shape.processes > 1 else "one process uses all of the machine",
        ),
    }
    if shape.processes > 1:
        values["launcher.processes"] = (shape.processes, "one a GPU")
    if shape.processes > 1 and shape.teacher.embed_dim >= 768:
        values["runtime.parallel.kind"] = ("fsdp2", "parameters sharded block by block")
    del wish
    return {key: Choice(*pair) for key, pair in values.items()}
