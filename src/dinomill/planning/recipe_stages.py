"""The values of curation, evaluation and registration."""

from __future__ import annotations

from dinomill.planning.choices import Choice, Choices, Wish
from dinomill.planning.machine import Machine
from dinomill.planning.pool import Pool
from dinomill.planning.prediction import Steps
from dinomill.planning.shape import SMALL_SIDE, TINY_SIDE, Shape, power_of_two

EFFICIENTNET = "efficientnet-lite0"
_IMAGES_A_CLUSTER = 150
_SIDES_A_CROP = 4  # a crop may then still show a sixteenth of a picture's area without being enlarged


def curation(wish: Wish, pool: Pool, machine: Machine, shape: Shape, steps: Steps, bound: str) -> Choices:
    """What is kept of the pool."""
    del bound
    side, found = pool.short_side.median, levels(pool.distinct)
    smallest = max(8, shape.image_size // 4) if wish.start is None else 8
    said = "as in the sample" if pool.unreadable_share < 0.25 else f"{pool.unreadable_share:.0%} of those looked at"
    choices = {
        "curation.execution.workers": Choice(machine.cores, f"processors that this process may use: {machine.cores}"),
        "curation.scan.max_bad_fraction": Choice(
            round(min(0.95, max(0.5, 1.5 * pool.unreadable_share)), 2),
            f"share of unusable files that is normal; {said}",
        ),
        "curation.scan.preflight.min_side": Choice(
            smallest, f"pixels; a smaller picture shows nothing at {shape.image_size}"
        ),
        "curation.embedding.embedder.network": Choice(
            EFFICIENTNET,
            "ImageNet features tell kinds of pictures apart best among what comes without a download",
        ),
        "curation.embedding.embedder.image_size": Choice(shape.embedder_size, _embedder_reason(side)),
        "curation.embedding.whiten": Choice(*_whiten(pool, shape)),
        "curation.embedding.images_per_task": Choice(
            steps.images_per_task, f"four tasks a processor, so that {machine.cores} end together"
        ),
        **_deduplication(pool, shape),
        "curation.balance.levels": Choice(
            found,
            f"clusters of some {_IMAGES_A_CLUSTER} images, finest first" if found else "too few images for clusters",
        ),
        "curation.write.channels": Choice(shape.channels, _channels_reason(wish, pool)),
        "curation.write.max_side": Choice(
            max(64, _SIDES_A_CROP * shape.image_size),
            f"pixels; larger ones are stored smaller: crops show {shape.image_size}, and every epoch decodes them anew",
        ),
    }
    if pool.value_range is not None:
        low, high = pool.value_range
        choices["curation.scan.preflight.value_range"] = Choice(
            [low, high], "stored values shown as black and white; the type's whole range would hide the pictures"
        )
    if wish.seeds:
        choices["curation.retrieval.default.mode"] = Choice(
            "similar",
            f"keeps what scores like the {wish.seed_images:,} seeds; curation says how well each set separates",
        )
    return choices


def levels(images: int) -> list[int]:
    """Clusters of each level, finest first; none where there are too few images for any."""
    finest = power_of_two(max(images / _IMAGES_A_CLUSTER, 1))
    return [finest, finest // 4] if finest >= 8 else []


def _embedder_reason(side: float) -> str:
    if side < TINY_SIDE:
        return f"pixels; more would only enlarge pictures of {side:.0f}"
    if side < SMALL_SIDE:
        return f"pixels; twice what pictures of {side:.0f} show: the network knows larger ones"
    return "pixels, as it was trained; at 64 it saw little but outlines, and kept the wrong kinds of pictures"


def _whiten(pool: Pool, shape: Shape) -> tuple[float | None, str]:
    """The damping of the features' whitening, or None; measured in docs/curation-quality.md."""
    if shape.aligned:
        return None, f"all images look alike (they correlate by {pool.alignment:.2f}): spread evenly, noise would count"
    return 0.01, "many kinds of images: spread evenly, style counts less, and the seeds find more of what they show"


def _deduplication(pool: Pool, shape: Shape) -> Choices:
    if not shape.aligned:
        why = "signature distance of the measured copies: resized, brightened, compressed anew"
        return {
            "curation.deduplication.max_distance": Choice(0.06, why),
            "curation.deduplication.ratio": Choice(0.12, "a copy is much closer than the crowd"),
        }
    limit = round(min(0.06, max(0.01, 0.2 * pool.crowd)), 3)
    return {
        "curation.deduplication.max_distance": Choice(
            limit, f"stricter where all images look alike: the 16th neighbour is {pool.crowd:.2f} away"
        ),
        "curation.deduplication.ratio": Choice(0.1, "… and a copy must be a tenth as far as the crowd"),
    }


def _channels_reason(wish: Wish, pool: Pool) -> str:
    seen = f"{pool.coloured:.0%} of the images show colour"
    if wish.start is not None:
        return f"what the weights take; {seen}"
    if pool.channels == 3:
        return f"{seen}, more than a twentieth: all are read in colour"
    return f"{seen}, at most a twentieth: all are read as grey"


def evaluation(wish: Wish, pool: Pool, machine: Machine, shape: Shape, steps: Steps, bound: str) -> Choices:
    """How much is measured."""
    del pool, bound
    if not wish.labelled:
        return {}
    bank = None if steps.bank >= wish.bank else steps.bank
    queries = None if steps.queries >= wish.queries else steps.queries
    small = f"so that measuring stays a small share of the run, on {machine.cores} cores"
    return {
        "evaluation.max_bank": Choice(bank, f"all {wish.bank:,}" if bank is None else f"of {wish.bank:,}, {small}"),
        "evaluation.max_queries": Choice(
            queries, f"all {wish.queries:,}" if queries is None else f"of {wish.queries:,}, {small}"
        ),
        "evaluation.random.seeds": Choice(
            steps.random_networks,
            "the best of three random networks"
            if steps.random_networks > 1
            else "one random network: each takes a pass",
        ),
        "evaluation.references": Choice([], "networks made elsewhere, to compare with: the teacher is a row already")
        if wish.teacher is not None and wish.teacher.address == EFFICIENTNET
        else Choice(
            [{"network": EFFICIENTNET, "image_size": shape.embedder_size}],
            "made elsewhere, to compare with: it has seen the labels of ImageNet, and costs seconds; []: none",
        ),
        **_precision(wish, machine),
        "evaluation.batch_size": Choice(
            64 if shape.image_size < 160 else 32, f"images in one forward pass at {shape.image_size} pixels"
        ),
    }


def _precision(wish: Wish, machine: Machine) -> Choices:
    if (wish.start is None and wish.teacher is None) or not machine.bf16:
        return {}
    return {"evaluation.precision": Choice("auto", "bfloat16, which this machine multiplies: scores move by rounding")}


def registration(wish: Wish, pool: Pool, machine: Machine, shape: Shape, steps: Steps, bound: str) -> Choices:
    """What becomes the champion."""
    del pool, machine, shape, steps, bound
    choices: Choices = {}
    if wish.start is not None:
        choices["registration.network"] = Choice(
            "teacher", "the adapted weights themselves; the student is beside them"
        )
        choices["registration.gate.max_drop_from_start"] = Choice(
            0.0, "points: no worse than the weights that it started from"
        )
        choices["registration.gate.max_drop_from_teacher"] = Choice(None, "it is the teacher")
    if not wish.labelled:
        choices["registration.gate.without_labels"] = Choice(
            "hold",
            "nothing can be measured without labelled images: it stays a candidate, which is served all the same",
        )
    return choices


def reporting() -> Choices:
    """What the page shows."""
    return {
        "reporting.planted": Choice(None, "nothing was planted here, as it was in the sample"),
        "reporting.labels": Choice(None, "what the sample's labels mean"),
    }
