"""Losses of regression against torch.nn.functional, written out crop by crop."""

from __future__ import annotations

import torch
from torch.nn import functional

from dinomill.training.losses.regression import class_losses, feature_losses, patch_loss


def test_a_row_costs_what_functional_says() -> None:
    random = torch.Generator().manual_seed(0)
    predicted, wanted = (3 * torch.randn(7, 12, generator=random) for _ in range(2))
    cosine = functional.cosine_embedding_loss(predicted, wanted, torch.ones(7), reduction="none")
    apart = torch.stack([functional.smooth_l1_loss(*pair) for pair in zip(predicted, wanted, strict=True)])
    torch.testing.assert_close(feature_losses(predicted, wanted), cosine + apart)
    torch.testing.assert_close(feature_losses(wanted, wanted), torch.zeros(7), atol=1e-6, rtol=0)


def test_each_crop_weighs_the_same_and_local_ones_learn_from_both() -> None:
    random = torch.Generator().manual_seed(1)
    batch, locals_, dim = 3, 4, 6
    predicted = torch.randn((2 + locals_) * batch, dim, generator=random)
    wanted = torch.randn(2 * batch, dim, generator=random)

    def cost(crop: int, image: int, target: torch.Tensor) -> torch.Tensor:
        row = predicted[crop * batch + image][None]
        return functional.cosine_embedding_loss(row, target[None], torch.ones(1)) + functional.smooth_l1_loss(
            row, target[None]
        )

    of_globals = [cost(crop, image, wanted[crop * batch + image]) for crop in range(2) for image in range(batch)]
    of_locals = [
        cost(crop, image, (wanted[image] + wanted[batch + image]) / 2)
        for crop in range(2, 2 + locals_)
        for image in range(batch)
    ]
    found = class_losses(predicted, wanted)
    count = (2 + locals_) * batch
    torch.testing.assert_close(found.globals, torch.stack(of_globals).sum() / count)
    torch.testing.assert_close(found.local, torch.stack(of_locals).sum() / count)
    assert class_losses(predicted[: 2 * batch], wanted).local == 0


def test_the_crops_of_a_batch_weigh_the_same_however_many_patches_they_have() -> None:
    random = torch.Generator().manual_seed(2)
    predicted, wanted = torch.randn(5, 4, generator=random), torch.randn(5, 4, generator=random)
    weights = torch.tensor([1.0, 0.25, 0.25, 0.25, 0.25])  # one crop of one patch, one of four
    rows = feature_losses(predicted, wanted)
    expected = (rows[0] + rows[1:].mean()) / 2
    torch.testing.assert_close(patch_loss(predicted, wanted, weights, images=2), expected)
