"""Named sizes and what a configuration refuses."""

from __future__ import annotations

import pytest
import torch

from dinomill.errors import ConfigError
from dinomill.models import VARIANTS, VisionTransformer, variant


def test_sizes_have_the_parameters_that_are_published() -> None:
    counts = {name: parameters(name) for name in VARIANTS}
    # 22.1 and 86.6 million are those of the released S and B; the mask token is counted.
    assert counts["small"] == pytest.approx(22.06, abs=0.01)
    assert counts["base"] == pytest.approx(86.58, abs=0.01)
    assert counts["nano"] < 0.5
    assert counts["large"] == pytest.approx(304.37, abs=0.01)
    assert counts["giant2"] == pytest.approx(1136.48, abs=0.01)
    assert variant("giant2").hidden_dim == 4096


def parameters(name: str) -> float:
    with torch.device("meta"):
        model = VisionTransformer(variant(name, image_size=518))
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_any_patch_size() -> None:
    for patch_size in (4, 7, 14, 16):
        for name in VARIANTS:
            config = variant(name, patch_size=patch_size)
            assert (config.grid, config.image_size) == (16, 16 * patch_size)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_heads": 5}, "num_heads 5"),
        ({"image_size": 100}, "image_size 100"),
        ({"position": "rope", "embed_dim": 30, "num_heads": 5}, "multiple of 4"),
        ({"pach_size": 7}, "patch_size"),
        ({"ffn": "relu"}, "ffn"),
    ],
)
def test_nonsense_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        variant("small", **changes)


def test_a_misspelt_size_is_guessed() -> None:
    with pytest.raises(ConfigError) as caught:
        variant("smal")
    assert "did you mean 'small'" in str(caught.value)
