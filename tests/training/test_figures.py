from __future__ import annotations

import numpy as np
import pytest
import torch

from dinomill.training import figures


def test_effective_rank_counts_directions() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 32)).Q
    assert figures.effective_rank(basis[:, :5].T.repeat(20, 1)) == pytest.approx(5, rel=1e-6)
    assert figures.effective_rank(torch.ones(100, 32)) == pytest.approx(1, rel=1e-6)
    assert 25 < figures.effective_rank(torch.randn(2000, 32)) <= 32
    few = torch.randn(20, 64)
    shares = torch.linalg.svdvals(few.double())
    shares = shares / shares.sum()
    assert figures.effective_rank(few) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-6)


def test_mean_similarity_of_known_sets() -> None:
    assert figures.mean_similarity(torch.ones(10, 4)) == pytest.approx(1)
    assert figures.mean_similarity(torch.eye(6)) == pytest.approx(0, abs=1e-12)
    assert figures.mean_similarity(torch.tensor([[1.0, 0], [-2.0, 0]])) == pytest.approx(-1)
    assert figures.mean_similarity(torch.ones(1, 4)) == 1


def test_prototypes_in_use_and_agreement() -> None:
    assert figures.prototypes_in_use(torch.tensor([7, 7, 3, 3])) == pytest.approx(2)
    assert figures.prototypes_in_use(torch.zeros(9, dtype=torch.long)) == pytest.approx(1)
    assert figures.agreement(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 0])) == 0.5


def test_copies_are_found_where_they_are_nearest_to_their_own() -> None:
    torch.manual_seed(0)
    originals = torch.randn(40, 16)
    copies = originals[:10] + 0.01 * torch.randn(10, 16)
    assert figures.copies_found(copies, originals) == 1
    assert figures.copies_found(copies.flip(0), originals) == 0


def test_patches_are_found_where_they_were_cut_from() -> None:
    torch.manual_seed(0)
    originals = torch.randn(3, 16, 8)
    grid = np.stack(np.meshgrid(np.arange(4) + 0.5, np.arange(4) + 0.5, indexing="ij"), axis=-1).reshape(1, 16, 2)
    places = np.repeat(grid, 3, axis=0)
    assert figures.patches_found(originals, originals, places) == 1
    # Mirrored copies: right only where their places are mirrored too.
    mirrored = originals.reshape(3, 4, 4, 8).flip(2).reshape(3, 16, 8)
    mirrored_places = places.reshape(3, 4, 4, 2)[:, :, ::-1].reshape(3, 16, 2)
    assert figures.patches_found(mirrored, originals, mirrored_places) == 1
    assert figures.patches_found(mirrored, originals, places) < 0.7
    # What the plain image does not show does not count.
    outside = places + np.array([0.0, 100.0])
    assert np.isnan(figures.patches_found(originals, originals, outside))


def test_similarities_of_patches_their_likeness_and_drift() -> None:
    torch.manual_seed(0)
    patches = torch.randn(5, 100, 16)
    similarities = figures.patch_similarities(patches)
    assert similarities.shape == (5, 64, 64)
    assert abs(figures.likeness(similarities)) < 0.05
    assert figures.likeness(figures.patch_similarities(torch.ones(5, 9, 16))) == pytest.approx(1)
    assert figures.drift(similarities, similarities) == 0
    assert figures.drift(similarities, -similarities) > 0.3
    assert figures.class_likeness(patches, patches[:, 0]) < 0.2
    assert figures.class_likeness(torch.ones(2, 4, 8), torch.ones(6, 8)) == pytest.approx(1)
