"""Sizes that have to agree: crops with patches, masks with the grid, students with their teacher."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.students import crop_sides, resolve_students
from dinomill.errors import DinomillError
from dinomill.images.masking import draw_masks
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.convnext_config import ConvNeXtConfig
from dinomill.models.kinds import ModelConfig
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request
from dinomill.planning.checks.weights import given, starting
from dinomill.pretraining.config import PretrainingConfig
from dinomill.training.config import AdaptationConfig
from dinomill.training.job import TrainingRecipe
from dinomill.training.losses.config import LossConfig
from dinomill.training.starting import resolve_model

_FAR = 4  # times larger or smaller than the images: a warning
_MASKED_CROPS = 64
_HALF, _NOTHING = 0.5, 0.1  # of the patches that are to be masked


def check_shapes(request: Request) -> Iterator[Problem]:
    """All sizes of the two trainings."""
    if request.runs("pretraining") and (pretraining := request.pretraining):
        model = teacher_model(request)
        if isinstance(model, Problem):
            yield model
        elif model is not None:
            yield from _crops(pretraining, "pretraining", model.patch_size)
            yield from _masks(pretraining, model.patch_size, pretraining.step.losses.ibot_weight)
        yield from _schedules(pretraining, "pretraining", pretraining.adaptation)
        yield from _adaptation(pretraining)
        yield from _gram(pretraining.step.losses, pretraining.steps, "pretraining")
    if request.runs("distillation") and (distillation := request.distillation):
        shape = teacher_shape(request)
        if shape is not None:
            yield from _students(distillation, shape, request)
            # A teacher without heads sees crops of its own size.
            yield from _crops(distillation, "distillation", shape["patch_size"] if distillation.own_teacher else 1)
        yield from _schedules(distillation, "distillation")
        yield from _gram(distillation.step.losses, distillation.steps, "distillation")


def teacher_model(request: Request) -> VisionTransformerConfig | Problem | None:
    """The model that pretraining will train, as its own code resolves it; what is wrong; None without a configuration.

    The channels of images are left aside: `images` holds them against it.
    """
    config = request.pretraining
    if config is None:
        return None
    weights = starting(request)
    if isinstance(weights, DinomillError):
        return Problem.of(weights, "pretraining.initial")
    try:
        return resolve_model(config.model, weights, None)
    except DinomillError as error:
        return Problem.of(error, "pretraining.model")


def teacher_shape(request: Request) -> dict[str, Any] | None:
    """The shape of the teacher that will be made, or that is there; None when nobody knows it yet."""
    if (config := request.distillation) and not config.own_teacher:
        found = given(request)
        return None if isinstance(found, DinomillError) else found
    if request.runs("pretraining"):
        model = teacher_model(request)
        return model.model_dump() if isinstance(model, VisionTransformerConfig) else None
    # Plain JSON instead of `models.read_config`, since torch takes seconds.
    try:
        found = json.loads((request.folders["teacher"] / "config.json").read_text(encoding="utf-8"))["model"]
    except (KeyError, OSError, ValueError, TypeError):
        return None
    return found if isinstance(found, dict) and {"patch_size", "in_channels"} <= set(found) else None


def _crops(recipe: TrainingRecipe, stage: str, patch: int) -> Iterator[Problem]:
    """Whole patches in every crop, and local crops that are smaller than the global ones."""
    crops = recipe.crops
    for name, size in crop_sides(recipe).items():
        if size % patch:
            yield Problem(
                f"{stage}.{name}",
                f"{stage}.{name} is no multiple of the patch size.",
                found=f"{size} pixels, patches of {patch}",
                action=f"set it to {max(round(size / patch), 1) * patch}",
            )
    if crops.local_crops and crops.local_size > crops.global_size:
        yield Problem(
            f"{stage}.crops.local_size",
            f"{stage}: the local crops are larger than the global ones.",
            found=f"local_size {crops.local_size}, global_size {crops.global_size} pixels",
            expected="smaller local crops: from a part, the whole is to be guessed",
            action=f"set local_size to {max(round(crops.global_size * 3 / 7 / patch), 1) * patch}",
        )


def _masks(recipe: TrainingRecipe, patch: int, weight: float) -> Iterator[Problem]:
    """Whether the masking hides anything at all on this grid: asked of the masking itself."""
    config, grid = recipe.masking, recipe.crops.global_size // patch
    if not weight or recipe.crops.global_size % patch or not config.fraction or config.ratio[1] <= 0:
        return
    masks = draw_masks(config, _MASKED_CROPS, grid, seed=recipe.seed, step=0)
    asked = int(_MASKED_CROPS * config.fraction) * grid * grid * sum(config.ratio) / 2
    share = len(masks.indices) / max(asked, 1)
    if share >= _HALF:
        return
    nothing = share < _NOTHING
    yield Problem(
        "pretraining.masking.min_patches",
        f"{'Next to nothing' if nothing else 'Less than half of what is asked for'} would be masked: the blocks hardly "
        "fit into the crops' grid, and the patch loss would have little to learn from.",
        found=f"a grid of {grid} × {grid} patches, blocks of at least {config.min_patches} patches, "
        f"at most {config.ratio[1]:.0%} masked",
        expected=f"blocks of fewer than {max(int(grid * grid * config.ratio[1]), 1) + 1} patches",
        action="lower pretraining.masking.min_patches, use smaller patches or larger crops, or set "
        "pretraining.step.losses.ibot_weight to 0",
        warning=not nothing,
    )


def _schedules(recipe: TrainingRecipe, stage: str, adaptation: AdaptationConfig | None = None) -> Iterator[Problem]:
    """Warmups no longer than the run: asked of the schedules themselves."""
    from dinomill.training.schedules import Schedules

    try:
        Schedules(recipe.schedule, steps=recipe.steps, batch=recipe.batch_size, adaptation=adaptation)
    except DinomillError as error:
        words = error.problem.split("`")
        above = stage if len(words) > 1 and words[1].startswith("adaptation.") else f"{stage}.schedule"
        key = f"{above}.{words[1]}" if len(words) > 1 else above
        problem = Problem.of(error, key)
        yield Problem(key, f"{above}: {problem.problem}.", problem.found, problem.expected, problem.action)


def _gram(losses: LossConfig, steps: int, stage: str) -> Iterator[Problem]:
    """An anchor that is reached before the run ends."""
    gram, key = losses.gram, f"{stage}.step.losses.gram"
    if gram is None:
        return
    try:
        gram.refuse_late(steps, key)
    except DinomillError as error:
        yield Problem.of(error, f"{key}.start")
        return
    if gram.start + gram.ramp > steps:
        yield Problem(
            f"{key}.ramp",
            "The run would end before Gram anchoring has its full weight.",
            found=f"{key}.start: {gram.start}, ramp: {gram.ramp}, and {steps} steps in all",
            action=f"lower {key}.start or {key}.ramp",
            warning=True,
        )


def _adaptation(config: PretrainingConfig) -> Iterator[Problem]:
    """Weights to adapt, and a backbone that moves before the run ends: asked of the schedule itself."""
    from dinomill.training.schedules import Schedules

    adaptation, key = config.adaptation, "pretraining.adaptation"
    if adaptation is None:
        return
    if config.initial is None and config.model != "from_weights":  # of which the model says it
        yield Problem(
            key,
            f"{key} is set, and there are no weights to adapt.",
            found="pretraining.initial: null",
            action=f"name the weights in pretraining.initial, or set {key} to null",
        )
    try:
        schedules = Schedules(config.schedule, steps=config.steps, batch=config.batch_size, adaptation=adaptation)
    except DinomillError:  # said by `_schedules`
        return
    never = schedules.frozen >= config.steps
    if never or schedules.frozen + schedules.ramp > config.steps:
        until = f"frozen for {schedules.frozen} steps, its rate rising over {schedules.ramp}"
        yield Problem(
            f"{key}.frozen" if never else f"{key}.ramp",
            "The backbone would never move: it stays frozen to the end of the run."
            if never
            else "The run would end before the backbone learns at its full rate.",
            found=f"{until}; {config.steps} steps in all",
            expected="frozen and ramp together shorter than the run",
            action=f"lower {key}.frozen and {key}.ramp: shares below 1, or steps",
            warning=not never,
        )


def _students(config: DistillationConfig, teacher: dict[str, Any], request: Request) -> Iterator[Problem]:
    """Students see the teacher's patches of the teacher's images, and are smaller than it."""
    pretraining = request.pretraining if request.runs("pretraining") and config.own_teacher else None
    auto = pretraining is not None and pretraining.initial is None and _open_channels(pretraining.model)
    made = "which will be made" if pretraining else "there" if config.own_teacher else str(config.teacher)
    for name, student in config.students.items():
        patch = teacher.get("patch_size") if student.patch_size == "auto" else student.patch_size
        if (
            config.own_teacher
            and patch == teacher["patch_size"]
            and any(size % patch for size in crop_sides(config).values())
        ):
            continue  # said of the crops
        # Channels that the dataset decides are the same for both.
        shape = teacher | ({"in_channels": student.in_channels} if auto and student.in_channels != "auto" else {})
        alone = config.model_copy(update={"students": {name: student}})
        try:
            resolved = resolve_students(alone, shape, made)
        except DinomillError as error:
            wrong = next((key for key in ("patch_size", "in_channels", "image_size") if key in error.problem), "")
            yield Problem.of(error, f"distillation.students.{name}.{wrong}".rstrip("."))
            continue
        yield from _size(name, resolved[name], teacher)


def _open_channels(model: Any) -> bool:
    """Whether the dataset decides about the channels."""
    return getattr(model, "in_channels", None) == "auto"


def _size(name: str, student: ModelConfig, teacher: dict[str, Any]) -> Iterator[Problem]:
    width, depth = teacher.get("embed_dim"), teacher.get("depth")
    if width and depth and _weights(student) > 12 * depth * width**2:
        yield Problem(
            f"distillation.students.{name}",
            f"The student {name!r} is larger than its teacher.",
            found=f"embed_dim {student.embed_dim} and depth {student.depth}; the teacher has {width} and {depth}",
            action="make it smaller, or serve the teacher: registration.network: teacher",
            warning=True,
        )


def _weights(student: ModelConfig) -> int:
    """Of its blocks: of a vision transformer 12 times the squared width each, of a ConvNeXt 8 times."""
    if isinstance(student, ConvNeXtConfig):
        return sum(8 * depth * dim**2 for dim, depth in zip(student.dims, student.depths, strict=True))
    return 12 * student.depth * student.embed_dim**2


def far_off(side: int, images: float) -> str | None:
    """What is wrong with a size in pixels for images of that shorter side; None when nothing is."""
    if images >= _FAR * side:
        return f"of {images:.0f} pixels, {side} keep one in {(images / side) ** 2:.0f}"
    if side >= _FAR * images:
        return f"images of {images:.0f} pixels are enlarged {side / images:.0f} times: the pixels between are made up"
    return None
