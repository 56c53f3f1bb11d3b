"""A ConvNeXt against transformers' own, and as training sees it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinomill.errors import ConfigError
from dinomill.models.convnext import ConvNeXt
from dinomill.models.convnext_config import CONVNEXT_VARIANTS, ConvNeXtConfig, convnext_variant
from dinomill.models.kinds import parse_model
from dinomill.models.student import StudentBackbone


def network(**changes: object) -> ConvNeXt:
    """A tiny one whose branches count."""
    torch.manual_seed(0)
    values = {"dims": (8, 16, 24), "depths": (1, 2, 1), "stem": 2, "layerscale": 1.0} | changes
    model = ConvNeXt(ConvNeXtConfig.model_validate({"kind": "convnext"} | values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", 27.820128), ("small", 49.454688), ("base", 87.566464), ("large", 196.230336)],
)
def test_named_sizes_are_the_papers(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = ConvNeXt(convnext_variant(name))
    # Without the classifiers, the figures that timm and transformers give for the released models.
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == millions
    assert model.patch_size == 32


def test_configurations_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        convnext_variant("tinny")
    with pytest.raises(ConfigError, match="3 stages, depths 2"):
        parse_model({"kind": "convnext", "dims": [8, 16, 32], "depths": [1, 1]}, where="a test")
    with pytest.raises(ConfigError, match="no network of the kind 'resnet'") as caught:
        parse_model({"kind": "resnet"}, where="a test")
    assert "vit or convnext" in str(caught.value)
    assert {convnext_variant(name).kind for name in CONVNEXT_VARIANTS} == {"convnext"}
    # A configuration of before this family, as files hold it, is a vision transformer; so is one that says so.
    plain = parse_model({"embed_dim": 64, "num_heads": 1}, where="a test")
    assert plain == parse_model({"kind": "vit", "embed_dim": 64, "num_heads": 1}, where="a test")
    assert "kind" not in plain.model_dump()
    assert "kind" not in plain.model_dump_json()


def test_features_are_those_of_forward_features() -> None:
    model = network()
    assert isinstance(model, StudentBackbone)
    x, local = torch.randn(3, 3, 32, 24), torch.randn(6, 3, 16, 16)
    whole = model.forward_features(x)
    big, small = model.features([x, local])
    assert (big.grid, small.grid) == ((4, 3), (2, 2))
    torch.testing.assert_close(big.cls, whole["x_norm_clstoken"])
    torch.testing.assert_close(big.patches, whole["x_norm_patchtokens"])
    torch.testing.assert_close(model(x), big.cls)
    assert whole["x_norm_regtokens"].shape == (3, 0, 24)
    chosen = torch.tensor([0, 5, 35])
    some, none = model.features([x, local], patch_indices=[chosen, None], recomputed=0.5)
    torch.testing.assert_close(some.patches, big.patches.flatten(0, 1)[chosen])
    assert none.patches.shape == (0, 24)
    torch.testing.assert_close(none.cls, small.cls)


def test_recomputing_changes_no_gradient() -> None:
    gradients: list[list[Tensor]] = []
    for share in (0.0, 1.0):
        model = network().train()
        (found,) = model.features([torch.ones(2, 3, 16, 16)], recomputed=share)
        (found.cls.square().sum() + found.patches[:, 0, 0].sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters())), "every parameter has a part in the features"
    torch.testing.assert_close(gradients[0], gradients[1])


def test_masks_and_images_that_do_not_fit_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="no mask token"):
        model.forward_features(torch.zeros(1, 3, 16, 16), torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="without masks"):
        model.features([torch.zeros(1, 3, 16, 16)], drop_path=0.1)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\] is expected"):
        model(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="no place in a map of stride 8"):
        model(torch.zeros(1, 3, 16, 7))


def test_intermediate_layers_are_stages() -> None:
    model = network()
    x = torch.randn(2, 3, 32, 32)
    places, pooled = model.get_intermediate_layers(x, return_class_token=True)[0]
    torch.testing.assert_close(pooled, model(x))
    assert places.shape == (2, 16, 24)
    shapes = [tuple(layer.shape) for layer in model.get_intermediate_layers(x, 3, reshape=True)]
    assert shapes == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 24, 4, 4)]
    with pytest.raises(ValueError, match="stages 0 to 2"):
        model.get_intermediate_layers(x, [3])


def test_layers_count_from_the_stem_to_the_norm() -> None:
    model = network(depths=(1, 2, 1))
    layers = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert layers["patch_embed.conv.weight"] == layers["patch_embed.norm.bias"] == 0
    assert layers["stages.0.0.gamma"] == 1
    assert layers["halvings.0.conv.weight"] == layers["stages.1.0.dwconv.weight"] == 2
    assert layers["stages.1.1.norm.weight"] == 3
    assert layers["halvings.1.norm.weight"] == layers["stages.2.0.pwconv2.bias"] == 4
    assert layers["norm.weight"] == model.n_blocks + 1 == 5
    assert len(model.units()) == model.n_blocks
