"""Positions: resizing against PyTorch's own bicubic kernels, and what rotary angles must and must not change."""

from __future__ import annotations

import pytest
import torch

from dinomill.models import VisionTransformer, variant
from dinomill.models.position import resize_positions, rotary_angles, rotate, turns


@pytest.mark.parametrize("grid", [(16, 16), (7, 7), (3, 12), (37, 40), (50, 1)])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_resizing_is_pytorchs(grid: tuple[int, int], antialias: bool, offset: float) -> None:
    side = 37
    table = torch.randn(side * side, 4, generator=torch.Generator().manual_seed(0))
    image = table.view(1, side, side, 4).permute(0, 3, 1, 2)
    size = {"scale_factor": tuple((n + offset) / side for n in grid)} if offset else {"size": grid}
    expected = torch.nn.functional.interpolate(image, **size, mode="bicubic", antialias=antialias)
    actual = resize_positions(table, grid, offset=offset, antialias=antialias)
    torch.testing.assert_close(actual, expected[0].flatten(1).T, atol=1e-5, rtol=1e-5)


def test_native_grid_is_left_alone_and_autocast_does_not_coarsen() -> None:
    table = torch.randn(25, 4)
    assert torch.equal(resize_positions(table, (5, 5), offset=0.1, antialias=False), table)
    with torch.autocast("cpu", torch.bfloat16):
        half = resize_positions(table, (4, 4), offset=0.1, antialias=False)
    assert torch.equal(half, resize_positions(table, (4, 4), offset=0.1, antialias=False))


def test_rotary_products_depend_on_the_difference_of_places() -> None:
    angles = rotary_angles((4, 4), 16, 100.0, torch.device("cpu")).view(4, 4, -1)
    torch.manual_seed(0)
    q, k = torch.randn(16), torch.randn(16)

    def product(one: tuple[int, int], other: tuple[int, int]) -> float:
        turned = rotate(torch.stack([q, k]), turns(torch.stack([angles[one], angles[other]])))
        return float(turned[0] @ turned[1])

    assert product((0, 0), (1, 2)) == pytest.approx(product((2, 1), (3, 3)), abs=1e-4)
    assert product((0, 0), (1, 2)) != pytest.approx(product((0, 0), (2, 1)), abs=1e-2)
    # The span of an image is the same whatever its grid: corners of a finer grid lie further out, by half a patch.
    fine = rotary_angles((8, 8), 16, 100.0, torch.device("cpu")).view(8, 8, -1)
    assert fine[0, 0].abs().max() / angles[0, 0].abs().max() == pytest.approx((1 - 1 / 8) / (1 - 1 / 4))


def test_rotary_model_sees_places_and_class_token_has_none() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(
        variant("nano", patch_size=7, image_size=28, position="rope", layerscale=1.0, registers=2)
    )
    assert model.pos_embed is None
    assert not any("pos" in name or "rope" in name for name in model.state_dict())
    prefix, patches = torch.randn(1, 3, 16), torch.randn(1, 16, 16)
    turned = rotate(torch.cat([prefix, patches], 1), turns(rotary_angles((4, 4), 16, 100.0, torch.device("cpu"))))
    assert torch.equal(turned[:, :3], prefix)
    torch.testing.assert_close(turned[:, 3:].norm(dim=-1), patches.norm(dim=-1))
    x = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        assert (model(x) - model(x.flip(-1))).abs().max() > 1e-3
        stretched = model.forward_packed([x], rope_scales=[torch.tensor(1.7)])[0]["x_norm_clstoken"]
        plain = model.forward_packed([x])[0]["x_norm_clstoken"]
    torch.testing.assert_close(plain, model(x).detach())
    assert (stretched - plain).abs().max() > 1e-4


def test_rope_scale_is_log_uniform_within_its_range_and_repeats() -> None:
    model = VisionTransformer(variant("nano", position="rope"))
    draws = torch.stack(
        [s for seed in range(300) if (s := model.draw_rope_scale(torch.Generator().manual_seed(seed))) is not None]
    )
    assert len(draws) == 300
    assert 0.5 <= draws.min() < 0.55
    assert 1.85 < draws.max() <= 2.0
    assert abs(draws.log2().mean()) < 0.1
    assert torch.equal(draws[7], model.draw_rope_scale(torch.Generator().manual_seed(7)))
    assert VisionTransformer(variant("nano")).draw_rope_scale() is None


def test_a_model_that_embedded_in_inference_mode_can_be_trained_afterwards() -> None:
    model = VisionTransformer(variant("nano", patch_size=7, image_size=35, layerscale=1.0))
    x = torch.randn(1, 3, 63, 63)
    with torch.inference_mode():
        expected = model(x)
    trained = model(x)
    trained.sum().backward()
    torch.testing.assert_close(trained.detach(), expected.clone())
    assert model.pos_embed is not None
    assert model.pos_embed.grad is not None
