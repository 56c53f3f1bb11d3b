"""A configured model against the weights that it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dinomill.errors import ConfigError
from dinomill.models import VisionTransformer, variant
from dinomill.models.agreement import model_from_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vits14.pth"
    torch.save(VisionTransformer(variant("small", image_size=56)).state_dict(), path)
    return path


def test_everything_follows_from_the_weights(weights: Path) -> None:
    config = model_from_weights(weights)
    assert (config.embed_dim, config.depth, config.num_heads, config.patch_size, config.image_size) == (
        *(384, 12, 6, 14),
        56,
    )


def test_what_may_be_chosen_is_taken(weights: Path) -> None:
    config = model_from_weights(
        weights, {"image_size": 112, "pooling": "cls+mean_patch", "registers": 4, "num_heads": 6, "layerscale": 1e-5}
    )
    assert (config.image_size, config.pooling, config.registers) == (112, "cls+mean_patch", 4)


@pytest.mark.parametrize(
    "chosen",
    [
        {"num_heads": 2},
        {"embed_dim": 192},
        {"patch_size": 7},
        {"in_channels": 1},
        {"depth": 6},
        {"interpolate_offset": 0.0},
        {"position": "rope"},
        {"norm_eps": 1e-5},
        {"layerscale": None},
        {"ffn": "swiglu"},
    ],
)
def test_contradictions_are_refused_and_named(weights: Path, chosen: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="contradicts the weights") as caught:
        model_from_weights(weights, chosen)
    (name,) = chosen
    assert f"pretraining.model.{name}" in str(caught.value)


def test_all_contradictions_are_named_at_once(weights: Path) -> None:
    with pytest.raises(ConfigError, match=r"students\.small\.num_heads: 2, not 6; students\.small\.depth: 6, not 12"):
        model_from_weights(weights, {"num_heads": 2, "depth": 6}, key="students.small")


def test_an_unknown_key_is_named(weights: Path) -> None:
    with pytest.raises(ConfigError, match="pach_size"):
        model_from_weights(weights, {"pach_size": 14})
