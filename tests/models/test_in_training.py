"""A vision transformer is what training asks of a backbone, and gives through that what it gives otherwise."""

import pytest
import torch

from dinomill.models import VisionTransformer, draw_drop_path, variant
from dinomill.models.student import StudentBackbone

CROPS = [(6, 28), (9, 14)]


def model(**changes):
    torch.manual_seed(0)
    shape = variant("nano", image_size=28, patch_size=7, **changes)
    return VisionTransformer(shape)


def crops():
    random = torch.Generator().manual_seed(1)
    return [torch.randn(count, 3, side, side, generator=random) for count, side in CROPS]


def test_it_satisfies_the_protocol():
    assert isinstance(model(), StudentBackbone)
    assert not isinstance(torch.nn.Linear(1, 1), StudentBackbone)


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("changes", [{}, {"position": "rope", "rope_rescale": 2.0}])
def test_features_are_those_of_the_packed_pass(rate, changes):
    """Random numbers are drawn in the order in which the loop always drew them: stochastic depth, then positions."""
    backbone, random = model(**changes).train(), torch.Generator().manual_seed(3)
    wanted = torch.tensor([0, 5, 17])
    seen = backbone.features(crops(), patch_indices=[wanted, None], drop_path=rate, generator=random, recomputed=0.5)
    random = torch.Generator().manual_seed(3)
    drawn = draw_drop_path(
        backbone.layout([(count, side, side) for count, side in CROPS]), backbone.n_blocks, rate, generator=random
    )
    scales = [backbone.draw_rope_scale(random) for _ in CROPS]
    expected = backbone.forward_packed(
        crops(), patch_indices=[wanted, None], drop_path=drawn, rope_scales=scales, checkpoint=False
    )
    assert [part.grid for part in seen] == [(4, 4), (2, 2)]
    for part, output in zip(seen, expected, strict=True):
        assert torch.equal(part.cls, output["x_norm_clstoken"])
        assert torch.equal(part.patches, output["x_norm_patchtokens"])


def test_layers_and_what_is_never_trained():
    backbone = model(local_cls_norm=True)
    layers = {name: backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert {name for name, layer in layers.items() if layer == 0} >= {"cls_token", "patch_embed.proj.weight"}
    assert layers["blocks.1.attn.qkv.weight"] == 2
    assert layers["norm.weight"] == len(backbone.units()) + 1 == backbone.n_blocks + 1
    assert list(backbone.untrained(masks=True, local_crops=True)) == []
    never = {id(one) for one in backbone.untrained(masks=False, local_crops=False)}
    assert never == {id(one) for one in (backbone.mask_token, *backbone.local_cls_norm.parameters())}
