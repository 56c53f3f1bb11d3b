from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dinomill.curation.config import CurationConfig
from dinomill.distillation.config import DistillationConfig
from dinomill.errors import InputError
from dinomill.evaluation.config import EvaluationConfig
from dinomill.planning.choices import Given, Measured
from dinomill.planning.environment import nested
from dinomill.planning.probe import overlaid, values
from dinomill.planning.recipe import MAX_EPOCHS, MAX_EPOCHS_STARTED, Plan, plan
from dinomill.pretraining.config import PretrainingConfig
from dinomill.registration.config import RegistrationConfig
from dinomill.reporting.config import ReportingConfig
from tests.planning.pools import (
    COLOUR,
    CRAWL,
    LABELLED,
    POOLS,
    SAMPLE,
    SOLAR,
    TEN,
    VITS14,
    machine,
    pool,
    wish,
)

CONFIGURATIONS = {
    "curation": CurationConfig,
    "pretraining": PretrainingConfig,
    "distillation": DistillationConfig,
    "evaluation": EvaluationConfig,
    "registration": RegistrationConfig,
    "reporting": ReportingConfig,
}
BASE = Path(__file__).parents[2] / "conf" / "base"


def value(made: Plan, key: str) -> Any:
    return made.choices[key].value


def laid_over_base(made: Plan) -> dict[str, Any]:
    """The parameters of every stage as Kedro would merge them."""
    stages = {}
    places = yaml.safe_load((BASE / "parameters_places.yml").read_text(encoding="utf-8"))
    for stage in CONFIGURATIONS:
        base = yaml.safe_load((BASE / stage / "parameters.yml").read_text(encoding="utf-8"))[stage]
        base = overlaid(base, places[stage])
        stages[stage] = _without_globals(overlaid(base, values(made.choices).get(stage, {})))
    return stages


def _without_globals(tree: Any) -> Any:
    """References to globals.yml as if they were resolved."""
    if isinstance(tree, dict):
        return {key: _without_globals(below) for key, below in tree.items()}
    if isinstance(tree, str) and tree.startswith("${globals:"):
        return "sqlite:///mlflow.db" if "tracking_uri" in tree else "somewhere"
    return tree


def check(made: Plan) -> None:
    """What must hold of every plan."""
    stages = laid_over_base(made)
    for stage, config in CONFIGURATIONS.items():
        config.parse(stages[stage], where=f"the plan's {stage}")
    patch, epochs = made.shape.patch, MAX_EPOCHS if made.wish.start is None else MAX_EPOCHS_STARTED
    for stage in ("pretraining", "distillation"):
        crops = stages[stage]["crops"]
        assert crops["global_size"] % patch == 0 == crops["local_size"] % patch
        assert crops["local_size"] <= crops["global_size"]
        assert stages[stage]["steps"] >= 1
        assert 1 <= stages[stage]["batch_size"] <= made.pool.images
        assert stages[stage]["runtime"]["monitor"]["every"] <= stages[stage]["steps"]
    seen = made.steps.pretraining * made.shape.batch / made.pool.images
    assert seen <= epochs or made.steps.pretraining == 10, "absurd epochs"
    if made.wish.start is None:
        assert made.shape.image_size <= made.pool.short_side.median, "larger than what the images show"
        assert made.shape.teacher.image_size == made.shape.image_size
    student, teacher = made.shape.student, made.shape.teacher
    assert (student.embed_dim, student.depth) != (teacher.embed_dim, teacher.depth)
    assert student.embed_dim <= teacher.embed_dim
    assert stages["distillation"]["students"]["small"]["patch_size"] == patch
    assert all(choice.reason for choice in made.choices.values())


@pytest.mark.parametrize("labelled", [False, True], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("name", POOLS)
def test_every_environment_is_valid_and_sensible(name: str, gpus: int, labelled: bool) -> None:
    for hours in (0.1, 1.0, 48.0):
        check(plan(wish(hours=hours, **(LABELLED if labelled else {})), POOLS[name], machine(gpus=gpus)))


@settings(max_examples=60, deadline=None)
@given(
    files=st.integers(8, 10**7),
    side=st.integers(9, 4000),
    alignment=st.floats(0, 1),
    coloured=st.floats(0, 1),
    hours=st.floats(0.01, 1000),
    cores=st.integers(1, 128),
    gpus=st.sampled_from([0, 0, 1, 4]),
    size=st.sampled_from([None, "tiny", "S", "B", "L"]),
)
def test_no_pool_gives_an_invalid_plan(
    files: int, side: int, alignment: float, coloured: float, hours: float, cores: int, gpus: int, size: Any
) -> None:
    seen = pool(files, side, alignment=alignment, coloured=coloured)
    check(plan(wish(hours=hours, size=size), seen, machine(cores, gpus=gpus)))


def test_the_samples_images_get_the_samples_sizes() -> None:
    made = plan(wish(hours=0.25, **LABELLED), SAMPLE, machine())
    assert (made.shape.image_size, made.shape.patch, made.shape.local_size, made.shape.channels) == (28, 7, 14, 1)
    assert made.shape.teacher.embed_dim == 128
    assert value(made, "curation.embedding.embedder.image_size") == 64
    assert value(made, "pretraining.crops.global_scale") == [0.9, 1.0], "garments are aligned"
    assert value(made, "pretraining.step.head.prototypes") == 1024
    assert value(made, "curation.balance.levels") == [64, 16]
    # The base has other draws, and an environment lies over it key by key.
    assert value(made, "pretraining.model.patch_init") == "random", "garments, on which whitened patches cost points"
    assert value(made, "distillation.students.small.linear_init") == "trunc_normal"


def test_photographs_get_another_model_than_the_samples() -> None:
    made = plan(wish(**LABELLED), COLOUR, machine())
    assert (made.shape.image_size, made.shape.patch, made.shape.channels) == (112, 14, 3)
    assert value(made, "curation.embedding.embedder.image_size") == 224
    assert value(made, "curation.embedding.whiten") == 0.01, "many kinds of images"
    assert value(made, "curation.write.max_side") == 448
    assert value(made, "pretraining.crops.global_scale") == [0.32, 1.0]
    assert value(made, "pretraining.crops.aspect") == [0.75, 1.3333]
    assert value(made, "pretraining.crops.blur") == "official"
    for key in ("pretraining.model", "distillation.students.small"):
        assert value(made, f"{key}.patch_init") == "whitened"
        assert value(made, f"{key}.linear_init") == "lecun_normal"
    months = plan(wish(hours=1000.0), pool(10**6, 500), machine(16, gpus=8))
    assert value(months, "pretraining.model.patch_init") == "random", "as published, for long runs"


def test_aligned_images_get_milder_crops_and_stricter_copies() -> None:
    made = plan(wish(), SOLAR, machine())
    assert value(made, "pretraining.crops.local_scale") == [0.15, 0.6]
    assert value(made, "curation.embedding.whiten") is None
    assert value(made, "pretraining.model.patch_init") == "whitened", "solar cells, whose cracks are fine"
    assert "0.56" in made.choices["curation.embedding.whiten"].reason
    assert value(made, "curation.deduplication.max_distance") < 0.06
    assert value(made, "pretraining.crops.solarise") == 0
    assert "correlate by 0.56" in made.choices["pretraining.crops.global_scale"].reason


def test_steps_follow_the_hours_until_the_epochs_end_them() -> None:
    short, long = (plan(wish(hours=hours), COLOUR, machine()) for hours in (0.5, 1.0))
    assert 1.8 < long.steps.pretraining / short.steps.pretraining < 3.5
    assert "leaves beside" in long.choices["pretraining.steps"].reason
    endless = plan(wish(hours=10_000), COLOUR, machine())
    assert endless.epochs <= MAX_EPOCHS
    assert "not used up" in endless.choices["pretraining.steps"].reason


def test_too_few_minutes_are_said_to_be_too_few() -> None:
    made = plan(wish(hours=0.01), COLOUR, machine())
    assert made.steps.pretraining == 10
    assert "the other stages alone take" in made.choices["pretraining.steps"].reason


def test_what_was_measured_decides() -> None:
    made = plan(wish(), COLOUR, machine())
    slow = Measured(**made.measured.model_dump() | {"pretraining_step": 10 * made.measured.pretraining_step})
    slower = plan(wish(), COLOUR, machine(), slow)
    assert slower.steps.pretraining == pytest.approx(made.steps.pretraining / 10, rel=0.15)


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("name", POOLS)
def test_every_adaptation_is_valid_and_sensible(name: str, gpus: int) -> None:
    for start in (VITS14, VITS14.model_copy(update={"embed_dim": 768, "patch_size": 16, "image_size": 224})):
        for hours in (0.1, 1.0, 48.0):
            check(plan(wish(hours=hours, start=start, **LABELLED), POOLS[name], machine(gpus=gpus)))


def test_weights_decide_patch_and_channels_and_are_adapted_gently() -> None:
    for seen in (SAMPLE, COLOUR, SOLAR, TEN):
        made = plan(wish(start=VITS14, **LABELLED), seen, machine())
        assert value(made, "pretraining.initial") == "weights/vits14.pth"
        assert value(made, "pretraining.model") == "from_weights"
        assert "pretraining.model.embed_dim" not in made.choices
        assert value(made, "curation.write.channels") == 3, "the weights take three"
        assert made.shape.patch == 14
        assert made.shape.image_size >= 6 * 14, "the weights know no coarser grid"
        assert made.epochs <= MAX_EPOCHS_STARTED or made.steps.pretraining == 10
        # The values that docs/adaptation.md measured: a tenth of the rate did nothing, three times it did damage.
        assert value(made, "pretraining.schedule.learning_rate") == 1e-3
        assert value(made, "pretraining.adaptation.backbone_rate") == 1.0
        assert value(made, "pretraining.adaptation.frozen") == value(made, "pretraining.adaptation.ramp") == 0.1
        assert value(made, "pretraining.schedule.momentum") <= 0.98
        assert made.shape.batch % made.shape.accumulate == 0
        assert value(made, "registration.gate.max_drop_from_start") == 0.0
        assert value(made, "pretraining.optimizer.layerwise_decay") < 1
        assert value(made, "distillation.students.small.embed_dim") < 384


def test_several_accelerators_are_used_by_torchrun() -> None:
    made = plan(wish(hours=24), CRAWL, machine(64, gpus=8))
    assert value(made, "pretraining.launcher.kind") == "torchrun"
    assert value(made, "pretraining.launcher.processes") == 8
    assert made.shape.batch % 8 == 0
    assert made.shape.image_size == 224
    assert value(made, "pretraining.crops.local_crops") == 8
    assert value(plan(wish(), CRAWL, machine()), "pretraining.launcher.kind") == "inline"


@pytest.mark.parametrize(("size", "dim"), [("tiny", 192), ("S", 384), ("B", 768), ("L", 1024)])
def test_the_size_that_was_asked_for_is_taken(size: str, dim: int) -> None:
    made = plan(wish(size=size), COLOUR, machine())
    assert made.shape.teacher.embed_dim == dim
    assert f"--size {size}" in made.choices["pretraining.model.embed_dim"].reason


def test_measuring_stays_a_small_share() -> None:
    many = {"labelled": "labelled", "bank": 400_000, "queries": 50_000, "classes": 100}
    made = plan(wish(hours=1, **many), COLOUR, machine())
    assert value(made, "evaluation.max_bank") < 400_000
    assert made.prediction.stages["evaluation"].seconds < 0.2 * 3600
    few = plan(wish(**LABELLED), SAMPLE, machine())
    assert value(few, "evaluation.max_bank") is None


def test_without_labels_nothing_is_promoted_unmeasured() -> None:
    made = plan(wish(), COLOUR, machine())
    assert value(made, "registration.gate.without_labels") == "hold"
    assert not any(key.startswith("evaluation.") for key in made.choices)


def test_a_pool_of_one_image_is_refused() -> None:
    with pytest.raises(InputError, match="too few images") as raised:
        plan(wish(), pool(1, 300), machine())
    assert raised.value.found == "1 usable of 1 files"


def test_the_same_input_gives_the_same_plan() -> None:
    one, other = (plan(wish(**LABELLED), COLOUR, machine()) for _ in range(2))
    assert nested(one.choices) == nested(other.choices)


@pytest.mark.parametrize("images", [8, 13, 40, 63, 64, 500, 4_000, 10_000_000])
def test_there_are_never_more_prototypes_than_images(images: int) -> None:
    from dinomill.planning.recipe_training import prototypes

    assert 2 <= prototypes(images) <= min(images, 65_536)
    assert prototypes(images) >= min(64, images // 2)


def test_copies_are_not_learnt_from_twice() -> None:
    """Curation takes copies out: epochs, batch and prototypes are those of what is left."""
    copied = plan(wish(), pool(8_000, 64, copied=0.75), machine())
    single = plan(wish(), pool(2_000, 64), machine())
    for key in ("pretraining.batch_size", "pretraining.step.head.prototypes", "curation.balance.levels"):
        assert copied.choices[key].value == single.choices[key].value
    assert copied.pool.distinct == 2_000
    assert copied.epochs <= 100


def test_students_see_what_their_teacher_sees_whoever_teaches() -> None:
    made = plan(wish(), SAMPLE, machine())
    assert made.shape.channels == 1
    assert value(made, "distillation.students.small.in_channels") == "auto"


def given(**settings: Any) -> Given:
    told: dict[str, Any] = {"address": "efficientnet-lite0", "family": "EfficientNet-Lite0", "image_size": 224}
    told |= {"any_size": True, "in_channels": 3, "parameters": 3_371_708, "licence": "Apache-2.0"}
    return Given(**(told | settings))


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("teacher", [given(), given(patch_size=14), given(any_size=False, in_channels=1)])
def test_a_given_teacher_is_distilled_from_and_nothing_pretrained(name: str, teacher: Given) -> None:
    made = plan(wish(teacher=teacher, **LABELLED), POOLS[name], machine())
    assert not [key for key in made.choices if key.startswith("pretraining.")]
    assert "pretraining" not in made.prediction.stages
    assert value(made, "distillation.teacher") == "efficientnet-lite0"
    size = made.choices.get("distillation.teacher_size")
    assert (size is None) is (not teacher.any_size or made.shape.embedder_size == 224)
    assert size is None or size.value % (teacher.patch_size or 1) == 0
    assert value(made, "curation.write.channels") == made.pool.channels  # grey and colour are made by themselves
    assert "registration.network" not in made.choices  # the student
    # The teacher is a row of its own; of another one's students EfficientNet is still shown beside them.
    assert value(made, "evaluation.references") == []
    other = plan(wish(teacher=teacher.model_copy(update={"address": "vits14.pth"}), **LABELLED), POOLS[name], machine())
    assert value(other, "evaluation.references")[0]["network"] == "efficientnet-lite0"
    merged = laid_over_base(made)
    config = DistillationConfig.parse(merged["distillation"], where="the plan")
    assert not config.own_teacher
    for stage, kind in CONFIGURATIONS.items():
        kind.parse(merged[stage], where="the plan")
