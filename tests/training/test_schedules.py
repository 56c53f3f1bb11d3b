"""Schedules against the official code's arrays, and what is refused."""

import numpy as np
import pytest

from dinomill.errors import ConfigError
from dinomill.training.schedules import Curve, ScheduleConfig, ScheduleKind, Schedules

EPOCH = 1250
RECIPES = {
    "short": (
        ScheduleConfig(),
        {"steps": 100 * EPOCH, "batch": 64 * 32},
    ),
    "long": (
        ScheduleConfig(
            learning_rate=2e-4,
            warmup=80 * EPOCH,
            weight_decay_end=0.2,
            momentum=0.994,
            teacher_temperature_warmup=30 * EPOCH,
            frozen_last_layer=EPOCH,
        ),
        {"steps": 500 * EPOCH, "batch": 32 * 96},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_equal_the_official_arrays(numeric_reference, name):
    reference = numeric_reference("schedules")
    config, run = RECIPES[name]
    schedules = Schedules(config, **run)
    values = [schedules.at(int(step)) for step in reference[f"{name}/idx"]]
    pairs = {
        "lr": "learning_rate",
        "wd": "weight_decay",
        "mom": "momentum",
        "temp": "teacher_temperature",
        "last_layer_lr": "last_layer_learning_rate",
    }
    for key, attribute in pairs.items():
        if f"{name}/{key}" in reference:
            actual = [getattr(value, attribute) for value in values]
            np.testing.assert_allclose(actual, reference[f"{name}/{key}"], rtol=1e-12, atol=1e-15)


def test_a_short_curve_and_what_follows_its_end(numeric_reference):
    reference = numeric_reference("schedules")
    curve = Curve(0.0, 1e-3, 1e-6, warmup=10, total=50)
    np.testing.assert_allclose([curve(step) for step in range(50)], reference["tiny/lr_full"], rtol=1e-12)
    assert curve(50) == curve(5000) == pytest.approx(float(reference["tiny/past_end"]))


def test_constant_schedules_do_not_depend_on_the_length_and_never_end():
    config = ScheduleConfig(
        kind=ScheduleKind.CONSTANT, warmup=100, frozen_last_layer=10, teacher_temperature_warmup=200, scaling="none"
    )
    schedules = Schedules(config, steps=200, batch=64)
    late = schedules.at(10**9)
    assert (late.learning_rate, late.weight_decay, late.momentum, late.teacher_temperature) == (4e-3, 0.04, 0.992, 0.07)
    assert schedules.at(9).last_layer_learning_rate == 0
    assert schedules.at(99).last_layer_learning_rate == 4e-3


@pytest.mark.parametrize("key", ["warmup", "frozen_last_layer", "teacher_temperature_warmup"])
def test_what_is_longer_than_the_run_is_refused(key):
    with pytest.raises(ConfigError, match=key):
        Schedules(ScheduleConfig(**{key: 500}), steps=100, batch=64)
