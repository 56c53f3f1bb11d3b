"""What the pool really holds against what is set: channels, sides, numbers.

<work>/checks/pool.json     the survey of the pool, kept for as long as its listing stays the same
<work>/checks/seeds.json    … of the seeds
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from pydantic import ValidationError

from dinomill.config import Config
from dinomill.errors import DinomillError
from dinomill.images.channels import may_become
from dinomill.images.pixels import kinds_in_words
from dinomill.models.config import VisionTransformerConfig
from dinomill.planning.checks.memory import recall, remember
from dinomill.planning.checks.problems import Problem, count
from dinomill.planning.checks.request import Request
from dinomill.planning.checks.shapes import far_off, teacher_model, teacher_shape
from dinomill.planning.pool import Pool, survey
from dinomill.pretraining.config import PretrainingConfig
from dinomill.storage.hashing import hash_json

_LOOKED_AT = 96  # images of which more than the name is read
_SURE = 0.3  # share of coloured images from which on a pool is one of colour, whatever curation leaves out
_SURELY_GREY = 0.01
_PHOTOGRAPH = 128  # pixels of the shorter side from which on an embedder sees more at 224 pixels
_EMBEDDER = 128


class _Kept(Config):
    """A survey and what it is of."""

    listing: str
    pool: Pool


def check_images(request: Request) -> Iterator[Problem]:
    """Everything that depends on what the images are."""
    if request.runs("curation") and request.pool:
        if any(map(request.will_be_made, request.pool)):
            return
        pool = look_at_pool(request)
        if isinstance(pool, Problem):
            yield pool
            return
        if pool is not None:
            yield from _pool(request, pool)
    elif (dataset := request.dataset) is not None:
        yield from _dataset(request, dataset.channels, dataset.images)


def look_at_pool(request: Request) -> Pool | Problem | None:
    """The pool's survey; what is wrong with all of it; None where a location is missing, which `places` reports."""
    return _survey(request, request.pool, "pool")


def _survey(request: Request, places: Sequence[str], key: str) -> Pool | Problem | None:
    try:
        items = [item for place in places for item in request.listing(place)]
    except (DinomillError, OSError, ValueError):
        return None
    if not items:
        return None
    remembered = request.work / "checks" / f"{key}.json"
    tiles = {place: request.tiles[place] for place in places if place in request.tiles}
    mark = hash_json([sorted(places), [[item.path, item.size, item.stamp] for item in items]])
    with suppress(ValidationError):
        kept = _Kept.model_validate_json(recall(remembered) or "")
        if kept.listing == mark:
            return kept.pool
    try:
        found = survey(list(places), tiles=tiles, sample=_LOOKED_AT, workers=4)
    except DinomillError as error:
        return Problem.of(error, key)
    remember(remembered, _Kept(listing=mark, pool=found).model_dump_json() + "\n")
    return found


def _pool(request: Request, pool: Pool) -> Iterator[Problem]:
    """What curation will look at, and the trainings after it."""
    assert request.runs("curation")
    config = request.curation
    places = tuple(request.seeds.values())
    seeds = _survey(request, places, "seeds") if places else None
    if isinstance(seeds, Problem):
        yield seeds
        seeds = None
    if config is None:
        return
    yield from _unusable(pool, config.scan.max_bad_fraction)
    yield from _values(config.scan.preflight.value_range, pool)
    yield from _few_images(request, pool.distinct, exact=pool.sampled == pool.files)
    yield from _embedder(request, pool)
    like = seeds or pool  # what is kept looks like the seeds
    yield from _sides(request, (like.short_side.median, pool.short_side.median))
    shares = sorted({pool.coloured, like.coloured})
    if config.write.channels == "auto":
        certain = shares[0] >= _SURE or shares[-1] <= _SURELY_GREY
        why = f"{like.coloured:.0%} of {like.sampled} looked at have colour"
        yield from _channels(request, like.channels, why, certain=certain)
    else:
        yield from _channels(request, config.write.channels, f"curation.write.channels: {config.write.channels}")
        asked_by_weights = request.pretraining is not None and request.pretraining.initial is not None
        if config.write.channels == 3 and shares[-1] <= _SURELY_GREY and not asked_by_weights:
            yield Problem(
                "curation.write.channels",
                "The dataset is to have colour, and the images have none.",
                found=f"none of {pool.sampled} looked at",
                action="set curation.write.channels to auto or 1: three equal channels cost time and teach nothing",
                warning=True,
            )


def _unusable(pool: Pool, most: float) -> Iterator[Problem]:
    if pool.unreadable_share > most:
        reasons = ", ".join(f"{many} {reason}" for reason, many in pool.unreadable.items())
        yield Problem(
            "pool",
            "Too many files of the pool cannot be used.",
            found=f"{pool.unreadable_share:.0%} of {pool.sampled} looked at: {reasons}",
            expected=f"at most {most:.0%} (curation.scan.max_bad_fraction)",
            action="name the folders that hold the images alone, or raise curation.scan.max_bad_fraction",
        )


def _values(said: tuple[float, float] | None, pool: Pool) -> Iterator[Problem]:
    """Files of more than 8 bits that would come out black."""
    if pool.unlike_kinds:
        yield Problem(
            "curation.scan.preflight.value_range",
            "The images are of several kinds, and no one black and white suits them all.",
            found=kinds_in_words(pool.unlike_kinds) + " in those looked at",
            expected="files of one kind, or values on one scale",
            action="convert them to one kind, or curate each kind in an environment of its own, with its value_range; "
            "as they are, some come out nearly black or white, or are not read at all",
            warning=True,
        )
    if said is not None or pool.value_range is None:
        return
    low, high = pool.value_range
    yield Problem(
        "curation.scan.preflight.value_range",
        "The images hold more than 8 bits: by their type's range they would be nearly black, or not read at all.",
        found=f"values from {low:g} to {high:g} in those looked at",
        action=f"set it to [{low:g}, {high:g}]",
        warning=True,
    )


def _few_images(request: Request, images: int, *, exact: bool) -> Iterator[Problem]:
    """Too few to train on at all, or fewer than a step or the prototypes take."""
    about = "" if exact else "about "
    for stage in ("pretraining", "distillation"):
        config = getattr(request, stage)
        if not request.runs(stage) or config is None:
            continue
        least = max(2, int(config.runtime.monitor.min_effective_rank) + 1)
        if images < least:
            yield Problem(
                "pool",
                f"There are too few images to train on ({stage}).",
                found=f"{about}{count(images, 'usable picture')}, copies counted once",
                expected=f"at least {least}; to learn anything, thousands",
                action="add images to the pool",
            )
            return
        if config.batch_size > images:
            yield Problem(
                f"{stage}.batch_size",
                f"A step of {stage} takes more images than there are: each comes several times in it.",
                found=f"{config.batch_size:,} images a step, {about}{images:,} in all",
                action=f"set it to {_power(images // 4):,} or less, or add images",
                warning=True,
            )
    if request.runs("pretraining") and (teacher := request.pretraining) and teacher.step.head.prototypes > images:
        yield Problem(
            "pretraining.step.head.prototypes",
            "There are more prototypes than images.",
            found=f"{teacher.step.head.prototypes:,} prototypes, {about}{images:,} images",
            action=f"set it to {_power(images // 8):,} or so: several images should share one",
            warning=True,
        )


def _power(most: int) -> int:
    """The largest power of two up to this, and at least 2."""
    return int(2 ** max(most.bit_length() - 1, 1))


def _sides(request: Request, sides: Sequence[float]) -> Iterator[Problem]:
    """Crops far smaller or far larger than the images."""
    for stage in ("pretraining", "distillation"):
        config = getattr(request, stage)
        if not request.runs(stage) or config is None:
            continue
        far = [(side, wrong) for side in sides if (wrong := far_off(config.crops.global_size, side))]
        if far:
            side, wrong = far[0]
            yield Problem(
                f"{stage}.crops.global_size",
                f"{stage} looks at crops of {config.crops.global_size} pixels, and the images are of another size.",
                found=f"a shorter side of {side:.0f} pixels in the middle of those looked at: {wrong}",
                action="set crops.global_size and the model's image_size to a size of the images' kind, with whole "
                "patches, or let `dinomill init` write an environment for them",
                warning=True,
            )


def _embedder(request: Request, pool: Pool) -> Iterator[Problem]:
    assert request.curation is not None
    config = request.curation.embedding.embedder
    if config.image_size < _EMBEDDER and pool.short_side.median >= _PHOTOGRAPH:
        yield Problem(
            "curation.embedding.embedder.image_size",
            "Curation would compare photographs by their outlines: it shrinks them too far to tell them apart.",
            found=f"{config.image_size} pixels; half of the images have a shorter side of {pool.short_side.median:.0f} "
            "or more",
            action="set it to 224",
            warning=True,
        )


def _channels(request: Request, channels: int, why: str, *, certain: bool = True) -> Iterator[Problem]:
    """The dataset's number of channels against the teacher's and the students'."""
    pretraining = request.pretraining if request.runs("pretraining") else None
    distillation = request.distillation if request.runs("distillation") else None
    given = distillation is not None and not distillation.own_teacher
    if pretraining and pretraining.initial is not None:
        model = teacher_model(request)
        if isinstance(model, VisionTransformerConfig):
            given = True
            yield from _converted("pretraining.initial", model.in_channels, channels, why)
    elif pretraining and not _auto(pretraining):
        model = teacher_model(request)
        if isinstance(model, VisionTransformerConfig):
            yield from _other("pretraining.model", model.in_channels, channels, why, certain=certain)
    if distillation is None:
        return
    if not distillation.own_teacher and (teacher := teacher_shape(request)) is not None:
        yield from _converted("distillation.teacher", teacher["in_channels"], channels, why)
    if given:
        return  # their students see what they see, whatever the dataset holds: `shapes` holds them against it
    for name, student in distillation.students.items():
        if student.in_channels != "auto":
            yield from _other(f"distillation.students.{name}", student.in_channels, channels, why, certain=certain)


def _converted(key: str, own: int, channels: int, why: str) -> Iterator[Problem]:
    """A network that is given takes images of the other kind, where a rule makes them; said, for it costs something."""
    if own == channels:
        return
    if not may_become(channels, own):
        yield Problem(
            key,
            f"The network of {key} takes other images than these.",
            found=f"{own} channels; the dataset has {channels} ({why})",
            action=f"name one for {channels} channels: only grey becomes colour, and colour grey, by itself",
        )
        return
    grey = channels == 1
    yield Problem(
        key,
        "The images are grey, and this network takes colour: their grey is repeated into three channels."
        if grey
        else "The images are in colour, and this network takes grey: it will see their luminance alone.",
        found=f"{own} channels; the dataset has {channels} ({why})",
        warning=True,
    )


def _other(place: str, own: int, channels: int, why: str, *, certain: bool) -> Iterator[Problem]:
    """A model that is made anew says another number of channels than it will see."""
    if own == channels:
        return
    yield Problem(
        f"{place}.in_channels",
        f"{place}.in_channels is not the images' number of channels.",
        found=f"{own}; the dataset {'has' if certain else 'will probably have'} {channels} ({why})",
        action=f"set {place}.in_channels to auto or {channels}, or curation.write.channels to {own}",
        warning=not certain,
    )


def _auto(config: PretrainingConfig) -> bool:
    """Whether the model takes whatever number of channels the dataset has."""
    return config.initial is None and getattr(config.model, "in_channels", None) == "auto"


def _dataset(request: Request, channels: int, images: int) -> Iterator[Problem]:
    """A dataset that is there says exactly what it holds."""
    yield from _channels(request, channels, f"{request.folders['curated']}")
    yield from _few_images(request, images, exact=True)
