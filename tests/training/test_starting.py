"""The model that a training starts from: from configuration, weights and dataset, refused where they differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dinomill.errors import ConfigError, InputError
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone
from dinomill.training.config import StatedModel
from dinomill.training.engine import build_module
from dinomill.training.job import TrainingJob
from dinomill.training.starting import StartingWeights, resolve_model, starting_weights

MakeJob = Callable[..., TrainingJob]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = VisionTransformerConfig(image_size=56, embed_dim=48, depth=2, num_heads=6, layerscale=1.0)


def weights(**changes: Any) -> StartingWeights:
    model = VisionTransformerConfig.model_validate(SMALL.model_dump() | changes)
    return StartingWeights("some/weights", "some/weights", model, MEAN, STD, "0" * 64)


def stated(**keys: Any) -> StatedModel:
    return StatedModel.parse(keys, where="a test")


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": 4},
        {"depth": 3},
        {"image_size": 16},
        {"layerscale": None},
        {"registers": 2},
        {"interpolate_offset": 0.0},
        {"interpolate_antialias": True},
        {"ffn": "swiglu"},
        {"position": "rope"},
        {"mlp_ratio": 2.0},
    ],
)
def test_a_worker_never_trains_other_weights_than_the_job_says(
    make_job: MakeJob, tmp_path: Path, change: dict[str, Any]
) -> None:
    # Two heads of 16 and four of 8 have tensors of the same shapes: only the configuration tells them apart.
    shape = make_job().models["student"].model_copy(update=change)
    save_backbone(tmp_path / "other", VisionTransformer(shape))
    job = make_job(initial=tmp_path / "other", initial_sha256="0" * 64)
    (key,) = change
    if key == "image_size":
        assert build_module(job).student("student").backbone.config.grid == 2
        return
    with pytest.raises(ConfigError, match=rf"pretraining\.model\.{key} is .*, theirs is {change[key]}"):
        build_module(job)


@pytest.mark.parametrize(
    ("key", "value", "theirs"),
    [
        ("num_heads", 2, 6),
        ("patch_size", 7, 14),
        ("depth", 6, 2),
        ("embed_dim", 96, 48),
        ("registers", 4, 0),
        ("ffn", "swiglu", "mlp"),
        ("mlp_ratio", 2, 4.0),
        ("interpolate_offset", 0, 0.1),
        ("interpolate_antialias", True, False),
        ("position", "rope", "learned"),
        ("layerscale", None, 1.0),
        ("in_channels", 1, 3),
    ],
)
def test_every_contradiction_is_refused_by_its_key(key: str, value: Any, theirs: Any) -> None:
    with pytest.raises(ConfigError, match=rf"pretraining\.model\.{key} is {value}.*, theirs is {theirs}") as caught:
        resolve_model(stated(**{key: value}), weights(), None)
    assert "from_weights" in str(caught.value)


def test_rope_weights_keep_their_base() -> None:
    turned = weights(position="rope", embed_dim=48, num_heads=6, rope_base=50.0)
    with pytest.raises(ConfigError, match="rope_base"):
        resolve_model(stated(rope_base=100.0), turned, None)
    # What says nothing of such weights is no contradiction.
    assert resolve_model(stated(interpolate_offset=0), turned, None) == turned.model


def test_agreement_and_from_weights_take_everything_from_the_weights() -> None:
    own = weights(pooling="cls+mean_patch")
    whole = StatedModel.parse(own.model.model_dump(exclude={"pooling", "image_size"}), where="a test")
    for choice in ("from_weights", whole, stated(num_heads=6, layerscale=1e-5, in_channels="auto")):
        assert resolve_model(choice, own, 3) == own.model  # type: ignore[arg-type]
    # What an embedding is, and at which grid the table lies, can be chosen.
    chosen = resolve_model(stated(pooling="mean_patch", image_size=112), own, 3)
    assert (chosen.pooling, chosen.grid, chosen.num_heads) == ("mean_patch", 8, 6)


@pytest.mark.parametrize(("of_weights", "of_dataset"), [(3, 5), (5, 3), (5, 1)])
def test_a_dataset_of_other_channels_is_refused(of_weights: int, of_dataset: int) -> None:
    with pytest.raises(ConfigError, match=rf"start from weights for {of_dataset} channels"):
        resolve_model("from_weights", weights(in_channels=of_weights), of_dataset)
    assert resolve_model("from_weights", weights(in_channels=of_weights), None).in_channels == of_weights


@pytest.mark.parametrize(("of_weights", "of_dataset"), [(3, 1), (1, 3)])
def test_grey_becomes_colour_and_colour_grey_by_itself(of_weights: int, of_dataset: int) -> None:
    assert resolve_model("from_weights", weights(in_channels=of_weights), of_dataset).in_channels == of_weights


def test_without_weights_channels_follow_the_dataset() -> None:
    assert resolve_model(stated(in_channels="auto"), None, 1).in_channels == 1
    assert resolve_model(stated(in_channels="auto"), None, None).in_channels == 3
    with pytest.raises(ConfigError, match=r"pretraining\.model\.in_channels to auto or to 1"):
        resolve_model(stated(), None, 1)
    with pytest.raises(ConfigError, match=r"pretraining\.initial"):
        resolve_model("from_weights", None, 1)
    with pytest.raises(ConfigError, match="not a multiple of num_heads"):
        resolve_model(stated(embed_dim=100), None, 3)


def test_weights_describe_themselves(tmp_path: Path) -> None:
    model = VisionTransformer(SMALL.model_copy(update={"pooling": "mean_patch"}))
    shown = PreprocessingConfig.square(28, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    save_backbone(tmp_path / "export", model, shown.section())
    ours = starting_weights(str(tmp_path / "export"))
    assert (ours.model, ours.mean, ours.std) == (model.config, shown.mean, shown.std)
    file = tmp_path / "official.pth"
    wide = SMALL.model_copy(update={"embed_dim": 64, "num_heads": 1})
    torch.save(VisionTransformer(wide).state_dict(), file)
    official = starting_weights(str(file))
    assert (official.mean, official.std, official.model.num_heads) == (MEAN, STD, 1)
    assert official.sha256 != ours.sha256
    with pytest.raises(InputError, match="nowhere"):
        starting_weights(str(tmp_path / "nowhere"))
