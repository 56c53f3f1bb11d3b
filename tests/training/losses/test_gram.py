"""Gram anchoring."""

import torch

from dinomill.training.losses.gram import gram_loss, resize_patches


def test_rotating_all_features_costs_nothing_and_mixing_patches_does():
    patches = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(gram_loss(patches @ rotation, patches), torch.tensor(0.0), atol=1e-10, rtol=0)
    assert gram_loss(patches.roll(1, 1), patches) > 0.01


def test_resizing_halves_a_grid_and_keeps_constant_features():
    patches = torch.ones(2, 64, 3) * torch.tensor([1.0, -2.0, 3.0])
    small = resize_patches(patches, grid=(8, 8), target=(4, 4))
    torch.testing.assert_close(small, patches[:, :16], atol=1e-5, rtol=1e-5)
