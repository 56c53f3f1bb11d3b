"""What every configuration refuses."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest
from pydantic import Discriminator, Tag

from dinomill.config import Config, tag
from dinomill.curation.copies.pairs import DeduplicationConfig
from dinomill.curation.scan.preflight import PreflightConfig
from dinomill.errors import ConfigError
from dinomill.evaluation.protocols.config import LinearProbeConfig
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.mixture import quotas
from dinomill.pretraining.config import PretrainingConfig
from dinomill.training.schedules import ScheduleConfig

WRONG = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("number", WRONG)
@pytest.mark.parametrize(
    ("kind", "key", "around"),
    [
        (PretrainingConfig, "mix", lambda number: {"a": 1.0, "b": number}),
        (ScheduleConfig, "learning_rate", lambda number: number),
        (ScheduleConfig, "warmup", lambda number: number),
        (DeduplicationConfig, "certain", lambda number: number),
        (DeduplicationConfig, "colour", lambda number: number),
        (PreflightConfig, "max_aspect", lambda number: number),
        (PreflightConfig, "value_range", lambda number: [0.0, number]),
        (LinearProbeConfig, "l2", lambda number: [0.1, number]),
        (MultiCropConfig, "global_scale", lambda number: [number, 1.0]),
        (MultiCropConfig, "blur", lambda number: [1.0, number, 0.0]),
    ],
)
def test_numbers_are_finite_wherever_they_stand(kind: type[Config], key: str, around, number: float) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as refused:
        kind.parse({key: around(number)}, where="conf/x.yml", prefix="stage")
    assert f"stage.{key}" in str(refused.value) and "finite" in str(refused.value)


@pytest.mark.parametrize("number", [*WRONG, 1e308])
def test_weights_of_a_mixture_that_give_no_numbers_of_images_are_refused(number: float) -> None:
    with pytest.raises(ConfigError, match="too small beside"):
        quotas([1.0, number])


def test_a_unions_tag_is_no_key() -> None:
    class Round(Config):
        kind: Literal["round"] = "round"
        radius: int = 1

    class Square(Config):
        kind: Literal["square"] = "square"
        side: int = 1

    def kind_of(values: Any) -> str:
        return tag(values.get("kind", "round") if isinstance(values, dict) else values.kind)

    class Drawing(Config):
        shapes: dict[
            str,
            Annotated[
                Annotated[Round, Tag(tag("round"))] | Annotated[Square, Tag(tag("square"))], Discriminator(kind_of)
            ],
        ]

    assert Drawing.parse({"shapes": {"a": {"side": 2, "kind": "square"}, "b": {}}}, where="x").shapes["b"] == Round()
    with pytest.raises(ConfigError, match=r"shapes\.a\.side: .*found 'wide'"):
        Drawing.parse({"shapes": {"a": {"kind": "square", "side": "wide"}}}, where="x")


def test_alternatives_of_a_key_are_told_without_their_names_in_code() -> None:
    given: dict[str, Any] = {"work": "w", "output": "o", "steps": 1, "model": {"kind": "convnext"}}
    with pytest.raises(ConfigError) as raised:
        PretrainingConfig.parse(given, where="parameters.yml")
    assert "    model.kind: Input should be 'vit' (found 'convnext')" in str(raised.value)
    assert "function" not in str(raised.value) and "from_weights" not in str(raised.value)
    with pytest.raises(ConfigError, match="model: Input should be a mapping of keys") as raised:
        PretrainingConfig.parse({**given, "model": "from_weigths"}, where="parameters.yml")
    assert "model: Input should be 'from_weights' (found 'from_weigths')" in str(raised.value)
