"""The block written for a CPU against the plain one: values, gradients of inputs and of every parameter."""

import pytest
import torch

from dinomill.models import VisionTransformer, VisionTransformerConfig, draw_drop_path

CONFIG = VisionTransformerConfig(image_size=28, patch_size=7, embed_dim=64, depth=2, num_heads=2, layerscale=0.3)


def run(model, monkeypatch, *, fused, dtype=torch.float32, drop_path=0.0, wanted=False, checkpoint=False):
    if not fused:
        monkeypatch.setattr("dinomill.models.layers.Block._fuses", lambda *_: False)
    random = torch.Generator().manual_seed(1)
    crops = [torch.randn(6, 3, 28, 28, generator=random), torch.randn(9, 3, 14, 14, generator=random)]
    layout = model.layout([(6, 28, 28), (9, 14, 14)])
    drawn = draw_drop_path(layout, model.n_blocks, drop_path, generator=torch.Generator().manual_seed(2))
    indices = [torch.tensor([0, 5, 17, 40]), None] if wanted else None
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        outputs = model.forward_packed(crops, patch_indices=indices, drop_path=drawn, checkpoint=checkpoint)
        loss = sum(
            (token.float() * torch.randn(token.shape, generator=random)).sum()
            for output in outputs
            for token in output.values()
        )
    model.zero_grad()
    loss.backward()
    monkeypatch.undo()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return [token for output in outputs for token in output.values()], gradients


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("drop_path", [0.0, 0.4])
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_it_is_the_plain_block(model, monkeypatch, drop_path, wanted, checkpoint):
    options = {"drop_path": drop_path, "wanted": wanted, "checkpoint": checkpoint}
    plain, plain_gradients = run(model, monkeypatch, fused=False, **options)
    fused, fused_gradients = run(model, monkeypatch, fused=True, **options)
    for actual, expected in zip(fused, plain, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert fused_gradients.keys() == plain_gradients.keys()
    for name, expected in plain_gradients.items():
        torch.testing.assert_close(fused_gradients[name], expected, atol=2e-4, rtol=1e-4, msg=name)


def test_in_bf16_it_rounds_little_more_than_the_plain_block(model, monkeypatch):
    _, exact = run(model, monkeypatch, fused=False, drop_path=0.4)
    errors = {}
    for fused in (False, True):
        _, rounded = run(model, monkeypatch, fused=fused, drop_path=0.4, dtype=torch.bfloat16)
        errors[fused] = torch.stack([(rounded[name] - exact[name]).norm() / exact[name].norm() for name in exact])
    assert errors[True].mean() < 2 * errors[False].mean()
    assert errors[True].max() < 0.03


def test_it_is_what_runs_in_training_on_a_cpu(model):
    tokens = model.forward_packed([torch.randn(2, 3, 28, 28)])[0]["x_norm_patchtokens"]
    names, todo = set(), [tokens.grad_fn]
    while todo:
        node = todo.pop()
        names.add(type(node).__name__)
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    assert {"_FusedAttentionBackward", "_FusedFeedForwardBackward"} <= names
