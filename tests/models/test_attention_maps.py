"""Attention of the class token against an independent implementation: the classes of ``transformers``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dinomill
from dinomill.models import VisionTransformer
from dinomill.models.attention_maps import class_attention
from tests.models.test_transformers_parity import theirs


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_registers", "dinov3"])
def test_it_is_what_the_reference_attends_to(tmp_path: Path, kind: str) -> None:
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    ours = dinomill.load(tmp_path)
    assert isinstance(ours, VisionTransformer)
    side = 5 * ours.patch_size
    x = torch.randn(2, 3, side, 2 * side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference = model(x, output_attentions=True).attentions[-1][:, :, 0]
    maps = class_attention(ours.eval(), x)
    assert maps.shape == (2, 2, 5, 10)
    torch.testing.assert_close(maps.flatten(2), reference[:, :, 1 + ours.num_register_tokens :], atol=1e-6, rtol=1e-5)
    assert (maps.sum(dim=(2, 3)) < 1).all()
