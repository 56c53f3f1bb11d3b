"""The backbone against stored outputs of the official code, and its packed pass against separate ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinomill.models import Sequences, VisionTransformer, draw_drop_path, variant
from dinomill.models.infer import infer_config
from dinomill.models.official import recognise
from dinomill.models.stochastic_depth import add_back, subset, take
from dinomill.models.weights import from_tensors

Reference = Mapping[str, np.ndarray[Any, Any]]
NAMES = ("vit_mlp_reg0_train", "vit_swiglufused_reg4_hubreg")
SIZES = ("70", "56", "98", "56x98")


@pytest.fixture(params=NAMES)
def reference(request: pytest.FixtureRequest, numeric_reference: Callable[[str], Reference]) -> Reference:
    return numeric_reference(request.param)


@pytest.fixture
def model(reference: Reference) -> VisionTransformer:
    tensors = {k[3:]: torch.from_numpy(reference[k]) for k in reference if k.startswith("sd/")}
    return from_tensors(infer_config(recognise(tensors, "reference"), "reference", num_heads=3), tensors, "reference")


def close(actual: Tensor, expected: np.ndarray[Any, Any]) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(expected), atol=1e-5, rtol=1e-6)


def crop_loss(outputs: list[dict[str, Tensor]]) -> Tensor:
    names = ("x_norm_clstoken", "x_norm_patchtokens")
    return torch.stack([(part[name] ** 3).sum() for part in outputs for name in names]).sum()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_every_stored_output(model: VisionTransformer, reference: Reference, size: str) -> None:
    x = torch.from_numpy(reference[f"x/{size}"])
    close(model.embed(x), reference[f"tokens/{size}"])
    outputs = model.forward_features(x)
    stored = [key for key in reference if key.startswith(f"out/{size}/")]
    assert len(stored) == 4
    for key in stored:
        close(outputs[key.rpartition("/")[2]], reference[key])
    close(model(x), reference[f"out/{size}/x_norm_clstoken"])
    layers = model.get_intermediate_layers(x, 3, reshape=True, return_class_token=True)
    for index, (patch, cls) in enumerate(layers):
        close(patch, reference[f"inter/{size}/{index}/patch"])
        close(cls, reference[f"inter/{size}/{index}/cls"])
    raw = model.get_intermediate_layers(x, [0, 2], norm=False)
    for index, patch in zip((0, 2), raw, strict=True):
        torch.testing.assert_close(
            patch, torch.from_numpy(reference[f"inter_nonorm/{size}/{index}"]), atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_masked_patches(model: VisionTransformer, reference: Reference) -> None:
    masks = torch.from_numpy(reference["mask/70"])
    outputs = model.forward_features(torch.from_numpy(reference["x/70"]), masks)
    for name in ("x_norm_clstoken", "x_norm_patchtokens"):
        close(outputs[name], reference[f"out_masked/70/{name}"])
    assert outputs["masks"] is masks


@pytest.mark.parametrize("checkpoint", [False, True])
def test_packed_pass_equals_separate_passes(model: VisionTransformer, reference: Reference, checkpoint: bool) -> None:
    crops = [torch.from_numpy(reference[f"x/{size}"]) for size in ("70", "56", "56x98")]
    masks = [torch.from_numpy(reference["mask/70"]), None, None]
    separate = [model.forward_features(crop, mask) for crop, mask in zip(crops, masks, strict=True)]
    crop_loss(separate).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    packed = model.forward_packed(crops, masks, checkpoint=checkpoint)
    crop_loss(packed).backward()
    for alone, together in zip(separate, packed, strict=True):
        for name, tokens in together.items():
            torch.testing.assert_close(tokens, alone[name], atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], atol=2e-3, rtol=1e-4)


def test_stochastic_depth_by_subset(numeric_reference: Callable[[str], Reference]) -> None:
    reference = numeric_reference("droppath_subset")
    x = torch.from_numpy(reference["x"])
    batch, length, dim = x.shape
    chosen = subset([Sequences(batch, length)], [torch.from_numpy(reference["kept"])])
    assert sum(part.samples for part in chosen.layout) == max(int(batch * (1 - float(reference["ratio"]))), 1)
    flat = x.flatten(0, 1)
    close(add_back(flat, 2 * torch.tanh(take(flat, chosen)), chosen).view(batch, length, dim), reference["out"])


def small(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=3, layerscale=0.5, **changes))


def drawn_crops(model: VisionTransformer) -> tuple[list[Tensor], list[Tensor | None], list[Sequences]]:
    torch.manual_seed(1)
    crops = [torch.randn(6, 3, 28, 28), torch.randn(9, 3, 14, 14)]
    masks: list[Tensor | None] = [torch.rand(6, 16) < 0.3, None]
    return crops, masks, list(model.layout([(6, 28, 28), (9, 14, 14)]))


def gradients(model: VisionTransformer, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("registers", [0, 2])
def test_only_the_wanted_patches_are_the_same_patches(rate: float, registers: int) -> None:
    model = small(registers=registers)
    crops, masks, layout = drawn_crops(model)
    drop_path = draw_drop_path(layout, 3, rate, generator=torch.Generator().manual_seed(2))
    assert masks[0] is not None
    wanted = masks[0].flatten().nonzero()[:, 0]
    everything = model.forward_packed(crops, masks, drop_path=drop_path)
    whole = [
        {"x_norm_clstoken": everything[0]["x_norm_clstoken"]}
        | {"x_norm_patchtokens": everything[0]["x_norm_patchtokens"].flatten(0, 1)[wanted]},
        {"x_norm_clstoken": everything[1]["x_norm_clstoken"], "x_norm_patchtokens": torch.empty(0, 64)},
    ]
    some = model.forward_packed(crops, masks, patch_indices=[wanted, None], drop_path=drop_path)
    for part, other in zip(some, whole, strict=True):
        for name in other:
            torch.testing.assert_close(part[name], other[name], atol=1e-5, rtol=1e-5)
    expected, actual = gradients(model, crop_loss(whole)), gradients(model, crop_loss(some))
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-4, rtol=1e-4)


def test_stochastic_depth_is_drawn_by_part_branch_and_block_and_repeats() -> None:
    layout = small().layout([(10, 28, 28), (8, 14, 14)])
    assert layout == (Sequences(10, 17), Sequences(8, 5))
    draws = [draw_drop_path(layout, 3, 0.35, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    rows = [[s.rows for s in (*d.attention, *d.ffn)] for d in draws if d is not None]
    assert all(torch.equal(a, b) for a, b in zip(rows[0], rows[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(rows[0], rows[2], strict=True))
    assert len({tuple(r.tolist()) for r in rows[0]}) == 6  # no two of the six branches share a draw
    first = draws[0]
    assert first is not None
    subset_ = first.attention[0]
    assert subset_.layout == (Sequences(6, 17), Sequences(5, 5))
    assert subset_.scale.flatten().unique().tolist() == pytest.approx([8 / 5, 10 / 6])
    assert draw_drop_path(layout, 3, 0.0) is None
    tiny = draw_drop_path([Sequences(1, 4)], 1, 0.9)
    assert tiny is not None
    assert tiny.ffn[0].layout == (Sequences(1, 4),)


def test_stochastic_depth_equals_dropping_and_scaling_by_hand() -> None:
    model = small()
    crops, masks, layout = drawn_crops(model)
    drop_path = draw_drop_path(layout, 3, 0.4)
    assert drop_path is not None
    packed = model.forward_packed(crops, masks, drop_path=drop_path)
    start = 0
    for part, crop, mask, outputs in zip(layout, crops, masks, packed, strict=True):
        x = model.embed(crop, mask)
        everyone = (Sequences(*x.shape[:2]),)
        rows = start + torch.arange(part.samples) * part.length
        for index, block in enumerate(model.blocks):
            for branch, chosen in (("attn", drop_path.attention[index]), ("mlp", drop_path.ffn[index])):
                norm, gain = (block.norm1, block.ls1) if branch == "attn" else (block.norm2, block.ls2)
                y = norm(x).flatten(0, 1)
                y = block.attn(y, everyone, (None,)) if branch == "attn" else block.mlp(y)
                x = x + gain(y).view_as(x) * chosen.factor(rows)[:, :, None]
        torch.testing.assert_close(outputs["x_norm_clstoken"], model.norm(x)[:, 0], atol=1e-5, rtol=1e-5)
        start += part.samples * part.length


def test_compiled_pass_is_one_graph_and_does_not_recompile() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = small(registers=2)
    crops, masks, layout = drawn_crops(model)
    compiled = torch.compile(model.forward_packed, fullgraph=True, backend="eager")
    for _ in range(3):
        drop_path = draw_drop_path(layout, 3, 0.4)
        expected = gradients(model, crop_loss(model.forward_packed(crops, masks, drop_path=drop_path)))
        actual = gradients(model, crop_loss(compiled(crops, masks, drop_path=drop_path)))
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, atol=1e-3, rtol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_bad_input_is_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match="not multiples of the patch size 7"):
        model(torch.randn(1, 3, 30, 28))
    with pytest.raises(ValueError, match="layers 0 to 2"):
        model.get_intermediate_layers(torch.randn(1, 3, 28, 28), [3])
