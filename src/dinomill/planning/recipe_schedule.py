"""Rates over a training: those of short runs, of long ones, and of runs that start from given weights."""

from __future__ import annotations

from typing import Any

from dinomill.planning.choices import Choice, Choices, Wish
from dinomill.planning.shape import Shape

LONG = 20_000  # steps from which the published constants fit better than those of short runs


def momentum(count: int) -> float:
    """Of the average that is kept: the shorter the run, the quicker it follows."""
    return 0.98 if count < 1000 else 0.99 if count < 5000 else 0.992 if count < 50_000 else 0.994


def short_schedule(shape: Shape, count: int) -> Choices:
    """Rates of a run that starts from random weights."""
    rate = 4e-3 if shape.tiny else 3e-3 if shape.teacher.embed_dim <= 192 else 2e-3
    if count >= LONG and shape.teacher.embed_dim >= 768:
        rate = 1e-3
    values: dict[str, tuple[Any, str]] = {
        "learning_rate": (rate, "at 1,024 images a step, by square root; too high costs more than too low"),
        "momentum": (momentum(count), f"of the teacher, over {count:,} steps"),
        "teacher_temperature": (0.06 if count < LONG else 0.07, "a short run" if count < LONG else "as published"),
        "weight_decay_end": (0.2, "as in the long recipe"),
    }
    return {f"schedule.{key}": Choice(*pair) for key, pair in values.items()}


def started_schedule(shape: Shape, count: int) -> Choices:
    """Rates of a run that starts from given weights."""
    # As conf/adapt, whose measurements are in docs/adaptation.md: a tenth of this hardly moved the weights, and several
    # times as much spoilt them.
    rate = 1e-3 if shape.teacher.embed_dim <= 384 else 5e-4
    follows = 0.97 if count < 500 else max(0.98, momentum(count))
    values: dict[str, tuple[Any, str]] = {
        "schedule.learning_rate": (
            rate,
            "at 1,024 images a step, by square root; random weights take four times it",
        ),
        "schedule.warmup": (0.05, "share of the run"),
        "schedule.momentum": (follows, f"of the teacher, which has {count:,} steps to get anywhere"),
        "schedule.teacher_temperature": (0.06, "a short run"),
        "schedule.teacher_temperature_warmup": (0.2, "share of the run"),
        "schedule.weight_decay_end": (0.04, "no more at the end than at the start: nothing is to be unlearnt"),
        "adaptation.frozen": (0.1, "share of the run: new heads would only do damage before they say something"),
        "adaptation.ramp": (0.1, "share of the run in which the backbone's rate rises"),
        "adaptation.backbone_rate": (1.0, "of the schedule's rate; less where images are much like the weights' own"),
    }
    return {key: Choice(*pair) for key, pair in values.items()}


def optimizer(wish: Wish, shape: Shape, count: int) -> Choices:
    """How much less early layers and patches learn."""
    if wish.start is not None:
        decay, patches = 0.8, 0.2
        why = "early layers, which know the most general things, move least"
    elif count < LONG:
        decay, patches = 1.0, 1.0
        why = "the paper's 0.9 and 0.2 spare weights that are trained for long"
    else:
        decay, patches, why = 0.9, 0.2, f"as published, for {shape.teacher.depth} blocks"
    return {
        "optimizer.layerwise_decay": Choice(decay, why),
        "optimizer.patch_embed_multiplier": Choice(patches, "as above"),
    }
