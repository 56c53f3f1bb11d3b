"""The fused cross-entropy against the textbook form, in value, gradient and memory."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, log_softmax, normalize

from dinomill.training.centering import Targets, centered_softmax, sinkhorn_knopp
from dinomill.training.losses.cross_entropy import CrossEntropyOptions, projected_cross_entropy
from dinomill.training.losses.dino import dino_losses
from dinomill.training.losses.prototypes import Prototypes

ROWS, DIM = 12, 32


def make(prototypes: int, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    features = normalize(torch.randn(ROWS, DIM, generator=random), dim=1)
    direction = torch.randn(prototypes, DIM, generator=random)
    gain = 1 + 0.1 * torch.rand(prototypes, 1, generator=random)
    teacher = normalize(torch.randn(ROWS, DIM, generator=random), dim=1)
    return features, direction, gain, teacher


def textbook(features, direction, gain, targets, temperature=0.1):
    weight = gain * direction / direction.norm(dim=1, keepdim=True)
    return -(targets * log_softmax(features @ weight.T / temperature, dim=1)).sum(1)


# More than one tile of 4,096, with an uneven last one.
@pytest.mark.parametrize("prototypes", [100, 9000])
@pytest.mark.parametrize("keep_bytes", [0, 2**30])
def test_value_and_gradients_equal_the_textbook_form(prototypes, keep_bytes):
    *leaves, teacher = make(prototypes)
    targets = sinkhorn_knopp(teacher, Prototypes(leaves[1], leaves[2]), temperature=0.07)
    upstream = torch.linspace(0.1, 1, ROWS)
    results = []
    for fused in (True, False):
        tensors = [leaf.clone().requires_grad_() for leaf in leaves]
        if fused:
            loss = projected_cross_entropy(
                tensors[0],
                Prototypes(*tensors[1:]),
                targets,
                mass=torch.ones(ROWS),
                options=CrossEntropyOptions(keep_bytes=keep_bytes),
            )
        else:
            loss = textbook(*tensors, targets.dense())
        results.append((loss, *torch.autograd.grad(loss, tensors, upstream)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_targets_are_as_they_were_after_the_backward_pass():
    """Several students learn from the same ones."""
    *leaves, _ = make(100)
    targets = Targets.from_dense(torch.rand(ROWS, 100))
    before = targets.scores.clone()
    features = leaves[0].requires_grad_()
    options = CrossEntropyOptions()
    projected_cross_entropy(
        features, Prototypes(*leaves[1:]), targets, mass=torch.ones(ROWS), options=options
    ).sum().backward()
    assert torch.equal(targets.scores, before)


@pytest.mark.parametrize("kind", ["sinkhorn", "softmax"])
def test_compiled_tiles_give_the_same_numbers(kind):
    *leaves, teacher = make(5000)
    results = []
    for compiled in (True, False):
        tensors = [leaf.clone().requires_grad_() for leaf in leaves]
        prototypes = Prototypes(*tensors[1:])
        if kind == "sinkhorn":
            targets = sinkhorn_knopp(teacher, prototypes, temperature=0.07, compiled=compiled)
        else:
            targets, _ = centered_softmax(teacher, prototypes, torch.zeros(5000), temperature=0.07, compiled=compiled)
        loss = projected_cross_entropy(
            tensors[0],
            prototypes,
            targets,
            mass=torch.ones(ROWS),
            options=CrossEntropyOptions(compiled=compiled, keep_bytes=0),
        ).mean()
        results.append((targets.dense(), loss, *torch.autograd.grad(loss, tensors)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-4)


def test_bf16_stays_close_and_its_gradient_points_the_same_way():
    *leaves, teacher = make(9000)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        tensors = [leaf.clone().requires_grad_() for leaf in leaves]
        targets = sinkhorn_knopp(teacher, Prototypes(leaves[1], leaves[2]), temperature=0.07, dtype=dtype)
        loss = projected_cross_entropy(
            tensors[0],
            Prototypes(*tensors[1:]),
            targets,
            mass=torch.ones(ROWS),
            options=CrossEntropyOptions(dtype=dtype),
        ).mean()
        results.append((loss.detach(), *torch.autograd.grad(loss, tensors)))
    (exact, *exact_gradients), (rounded, *rounded_gradients) = results
    torch.testing.assert_close(rounded, exact, rtol=5e-3, atol=0)
    for actual, expected in zip(rounded_gradients, exact_gradients, strict=True):
        assert cosine_similarity(actual.flatten(), expected.flatten(), dim=0) > 0.99


def test_without_local_crops_only_the_global_term_is_left():
    features, direction, gain, teacher = make(64)
    prototypes = Prototypes(direction, gain)
    targets = sinkhorn_knopp(teacher, prototypes, temperature=0.07)
    batch = ROWS // 2
    result = dino_losses(features, prototypes, targets, batch=batch, options=CrossEntropyOptions())
    expected = textbook(features, direction, gain, targets.dense().roll(batch, 0)).mean()
    assert result.local == 0
    torch.testing.assert_close(result.globals, expected)


def test_logits_far_apart_neither_overflow_nor_give_nan():
    features, direction, gain, teacher = make(64)
    prototypes = Prototypes(direction, gain * 60)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assigned = sinkhorn_knopp(teacher, prototypes, temperature=0.04, dtype=dtype)
        assert assigned.dense().isfinite().all()
        softmax, _ = centered_softmax(teacher, prototypes, torch.zeros(64), temperature=0.04, dtype=dtype)
        torch.testing.assert_close(softmax.dense().sum(1), torch.ones(ROWS), atol=1e-2, rtol=0)
        tracked = features.clone().requires_grad_()
        loss = projected_cross_entropy(
            tracked, prototypes, softmax, mass=torch.ones(ROWS), options=CrossEntropyOptions(dtype=dtype)
        ).mean()
        assert loss.isfinite()
        assert torch.autograd.grad(loss, tracked)[0].isfinite().all()


def test_no_rows_give_no_loss_and_a_zero_gradient():
    _, direction, gain, _ = make(64)
    direction.requires_grad_()
    empty = torch.empty(0, DIM, requires_grad=True)
    targets = Targets.from_dense(torch.empty(0, 64))
    loss = projected_cross_entropy(
        empty, Prototypes(direction, gain), targets, mass=torch.ones(0), options=CrossEntropyOptions()
    ).sum()
    loss.backward()
    assert loss == 0
    assert direction.grad.count_nonzero() == 0
