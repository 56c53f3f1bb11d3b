"""Multipliers of every parameter against the official code, block names flat and chunked."""

import pytest
from torch import nn

from dinomill.training.param_groups import backbone_multipliers, fuse, head_multipliers


@pytest.mark.parametrize("chunks", ["chunks0", "chunks4"])
@pytest.mark.parametrize("wrapper", ["", "_orig_mod."])
def test_backbone(numeric_reference, chunks, wrapper):
    reference = numeric_reference("param_groups")
    pairs = []
    for index, name in enumerate(reference[f"{chunks}/name"]):
        multipliers = backbone_multipliers(wrapper + str(name), depth=12, layerwise_decay=0.9, patch_embed=0.2)
        assert multipliers.learning_rate == pytest.approx(reference[f"{chunks}/lr_mult"][index], rel=1e-12), name
        assert multipliers.weight_decay == reference[f"{chunks}/wd_mult"][index], name
        assert multipliers.last_layer == reference[f"{chunks}/is_last"][index], name
        pairs.append((nn.Parameter(), multipliers))
    groups = fuse(pairs)
    assert len(groups) == reference[f"{chunks}/n_fused"]
    assert sum(len(group["params"]) for group in groups) == len(pairs)


def test_head(numeric_reference):
    reference = numeric_reference("param_groups")
    for index, name in enumerate(reference["head/name"]):
        multipliers = head_multipliers(str(name))
        assert multipliers.learning_rate == reference["head/lr_mult"][index]
        assert multipliers.weight_decay == reference["head/wd_mult"][index]
        assert multipliers.last_layer == reference["head/is_last"][index]
