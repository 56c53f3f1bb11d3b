"""The segmentation head: what it learns, and that it is the head of the paper's training loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dinomill.errors import InputError
from dinomill.evaluation.dense.grids import Grids
from dinomill.evaluation.dense.learn import held_out
from dinomill.evaluation.dense.segment import Masks, count_all, learn_segmentation
from dinomill.evaluation.dense.windows import layout
from dinomill.evaluation.protocols.config import LinearProbeConfig
from dinomill.images.paired import PairedPaths, find_paired

CLASSES, SIDE, GRID, DIM = 4, 48, 6, 12
HEAD = {"l2": (1e-2, 1e-4, 1e-6), "holdout": 0.25}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairedPaths:
    """Twelve images of rectangles of a class each, some of them ignored."""
    root = tmp_path_factory.mktemp("set")
    random = np.random.default_rng(0)
    for number in range(12):
        mask = np.full((SIDE, SIDE + 24 * (number % 3)), random.integers(CLASSES), np.uint8)
        for _ in range(3):
            top, left = random.integers(0, SIDE - 16, 2)
            mask[top : top + 20, left : left + 20] = random.choice([0, 1, 2, 3, 255])
        for folder, pixels in (("images", np.stack([mask] * 3, axis=2)), ("masks", mask)):
            path = root / folder / "train" / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return find_paired(root, "train")


def grids_of(pairs: PairedPaths, noise: float) -> Grids:
    """Places whose features are the shares of their classes in another basis, and noise."""
    random = np.random.default_rng(1)
    basis = random.standard_normal((CLASSES, DIM))
    layouts = tuple(layout(size, SIDE, "x") for size in pairs.sizes)
    patches = []
    for target, windows in zip(pairs.targets, layouts, strict=True):
        mask = np.asarray(Image.open(target))
        for top, left in windows.corners:
            part = mask[top : top + SIDE, left : left + SIDE]
            shares = np.stack([part == c for c in range(CLASSES)], axis=2).astype(float)
            cells = shares.reshape(GRID, SIDE // GRID, GRID, SIDE // GRID, CLASSES).mean(axis=(1, 3))
            patches.append(cells @ basis + noise * random.standard_normal((GRID, GRID, DIM)))
    stacked = np.stack(patches).astype(np.float16)
    first = np.cumsum([0, *map(len, layouts)])
    return Grids(stacked, stacked.mean(axis=(1, 2)), layouts, first)


def test_features_that_hold_the_classes_are_read_and_noise_is_not(pairs: PairedPaths) -> None:
    masks = Masks(pairs, (255,))
    scores = {}
    for noise in (0.05, 100.0):
        grids = grids_of(pairs, noise)
        chosen = learn_segmentation(grids, masks, CLASSES, _head(), pixels=6_000, seed=0)
        counts = count_all(chosen.head, grids, masks)
        scores[noise] = float(counts.miou()[0])
        assert set(chosen.tried) == set(HEAD["l2"]) and chosen.l2 in chosen.tried
        assert counts.true.sum() == sum((np.asarray(Image.open(t)) != 255).sum() for t in pairs.targets)
    assert scores[0.05] > 0.75 > 0.45 > scores[100.0]


def test_the_optimum_is_that_of_cross_entropy_on_upsampled_logits(pairs: PairedPaths) -> None:
    """The loop of the paper on the same images: batch norm is the same standardisation, and finds no better head."""
    square = [index for index, size in enumerate(pairs.sizes) if size == (SIDE, SIDE)]
    some = PairedPaths(
        pairs.root,
        tuple(pairs.paths[i] for i in square),
        tuple(pairs.targets[i] for i in square),
        tuple(pairs.sizes[i] for i in square),
    )
    grids, masks = grids_of(some, 0.3), Masks(some, (255,))
    head = learn_segmentation(grids, masks, CLASSES, _head(l2=(1e-6,)), pixels=12_000, seed=0).head
    maps = torch.cat([grids.of(index) for index in range(len(some))])
    truth = torch.stack([torch.from_numpy(masks.read(index)).long() for index in range(len(some))])

    def loss(logits: torch.Tensor) -> torch.Tensor:
        whole = functional.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return functional.cross_entropy(whole, truth, ignore_index=-1)

    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.BatchNorm2d(DIM), torch.nn.Conv2d(DIM, CLASSES, 1))
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0)
    for _ in range(100):
        optimiser.zero_grad()
        trained = loss(layer(maps))
        trained.backward()
        optimiser.step()
    assert loss(head.logits(maps)).item() < trained.item() * 1.02


def test_a_split_without_labelled_pixels_is_refused(pairs: PairedPaths) -> None:
    with pytest.raises(InputError, match="no pixel of a class"):
        learn_segmentation(grids_of(pairs, 1), Masks(pairs, (0, 1, 2, 3, 255)), CLASSES, _head(), pixels=600, seed=0)


def test_some_images_are_held_out_and_some_are_not() -> None:
    for images in (2, 3, 10, 100):
        held = held_out(images, 0.2, seed=0)
        assert 0 < held.sum() < images and held.sum() == max(round(images * 0.2), 1)


def _head(**changes: object) -> LinearProbeConfig:
    return LinearProbeConfig.parse({**HEAD, **changes}, where="test")
