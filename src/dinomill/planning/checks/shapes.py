"""Sizes that have to agree: crops with patches, masks with the grid, students with their teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dinomill.errors import DinomillError
from dinomill.images.masks import draw_masks
from dinomill.models.config import VisionTransformerConfig
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request

if TYPE_CHECKING:
    from dinomill.training.job import Recipe

_FAR = 4  # times larger or smaller than the images: a warning
_MASKED_CROPS = 64
_HALF, _NOTHING = 0.5, 0.1  # of the patches that are to be masked


def check_shapes(request: Request) -> Iterator[Problem]:
    """All sizes of the two trainings."""
    if request.runs("pretraining") and (teacher := request.pretraining):
        model = shape_of(teacher.model)
        if model is not None:
            yield from _crops(teacher, "pretraining", model.patch_size)
            yield from _masks(teacher, model.patch_size, teacher.step.losses.ibot_weight)
        yield from _schedules(teacher, "pretraining")
    if request.runs("distillation") and (distillation := request.distillation):
        yield from _students(request)
        sizes = {s.patch_size for s in map(shape_of, distillation.students.values()) if s and _given(s.patch_size)}
        side = next(iter(sizes)) if len(sizes) == 1 else teacher_shape(request, "patch_size")
        if side is not None:
            yield from _crops(distillation, "distillation", side)
        yield from _schedules(distillation, "distillation")


def shape_of(model: Any) -> Any:
    """A model's shape; None where it is left to weights that are read later."""
    return model if hasattr(model, "patch_size") and hasattr(model, "embed_dim") else None


def _given(value: Any) -> bool:
    """Whether a size is a number, and not left to something else (`auto`)."""
    return isinstance(value, int)


def teacher_shape(request: Request, key: str) -> Any:
    """A size of the teacher that will be made, or that is there; None when nobody knows it yet."""
    if request.runs("pretraining"):
        model = shape_of(request.pretraining.model) if request.pretraining else None
        found = getattr(model, key, None)
    else:
        found = _exported_shape(request).get(key)
    return found if _given(found) else None


def _exported_shape(request: Request) -> dict[str, Any]:
    """What the finished teacher's config.json says of its model; read as plain JSON, since torch takes seconds."""
    import json

    try:
        text = (request.folders["teacher"] / "config.json").read_text(encoding="utf-8")
        found = json.loads(text).get("model", {})
    except (KeyError, OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _crops(recipe: Recipe, stage: str, patch: int) -> Iterator[Problem]:
    """Whole patches in every crop, and local crops that are smaller than the global ones."""
    crops = recipe.crops
    sizes = {"global_size": crops.global_size} | ({"local_size": crops.local_size} if crops.local_crops else {})
    for name, size in sizes.items():
        if size % patch:
            yield Problem(
                f"{stage}.crops.{name}",
                f"{stage}.crops.{name} is no multiple of the patch size.",
                found=f"{size} pixels, patches of {patch}",
                action=f"set it to {max(round(size / patch), 1) * patch}",
            )
    if "local_size" in sizes and crops.local_size > crops.global_size:
        yield Problem(
            f"{stage}.crops.local_size",
            f"{stage}: the local crops are larger than the global ones.",
            found=f"local_size {crops.local_size}, global_size {crops.global_size} pixels",
            expected="smaller local crops: from a part, the whole is to be guessed",
            action=f"set local_size to {max(round(crops.global_size * 3 / 7 / patch), 1) * patch}",
        )


def _masks(recipe: Recipe, patch: int, weight: float) -> Iterator[Problem]:
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


def _schedules(recipe: Recipe, stage: str) -> Iterator[Problem]:
    """Warmups no longer than the run: asked of the schedules themselves."""
    from dinomill.training.schedules import Schedules

    try:
        Schedules(recipe.schedule, steps=recipe.steps, batch=recipe.batch_size)
    except DinomillError as error:
        words = error.problem.split("`")
        key = f"{stage}.schedule.{words[1]}" if len(words) > 1 else f"{stage}.schedule"
        problem = Problem.of(error, key)
        yield Problem(key, f"{stage}.schedule: {problem.problem}.", problem.found, problem.expected, problem.action)


def _students(request: Request) -> Iterator[Problem]:
    """Students see the teacher's patches of the teacher's images, and are smaller than it."""
    config = request.distillation
    assert config is not None, "asked for by check_shapes"
    for name, student in config.students.items():
        for key, what in (("patch_size", "patch size"), ("in_channels", "number of channels")):
            own, wanted = getattr(student, key, None), teacher_shape(request, key)
            if _given(own) and wanted is not None and own != wanted:
                yield Problem(
                    f"distillation.students.{name}.{key}",
                    f"The student {name!r} has another {what} than its teacher.",
                    found=f"{own}; the teacher has {wanted}",
                    action=f"set it to {wanted}, or leave it out: both learn from the same patches of the same images",
                )
        yield from _size(request, name, student)


def _size(request: Request, name: str, student: Any) -> Iterator[Problem]:
    widths = [teacher_shape(request, key) for key in ("embed_dim", "depth")]
    if None in widths or not isinstance(student, VisionTransformerConfig):
        return
    own, teacher = student.depth * student.embed_dim**2, widths[1] * widths[0] ** 2
    if own > teacher:
        yield Problem(
            f"distillation.students.{name}",
            f"The student {name!r} is larger than its teacher.",
            found=f"embed_dim {student.embed_dim} and depth {student.depth}; "
            f"the teacher has {widths[0]} and {widths[1]}",
            action="make it smaller, or serve the teacher: registration.network: teacher",
            warning=True,
        )


def far_off(side: int, images: float) -> str | None:
    """What is wrong with a size in pixels for images of that shorter side; None when nothing is."""
    if images >= _FAR * side:
        return f"of {images:.0f} pixels, {side} keep one in {(images / side) ** 2:.0f}"
    if side >= _FAR * images:
        return f"images of {images:.0f} pixels are enlarged {side / images:.0f} times: the pixels between are made up"
    return None
