from __future__ import annotations

import numpy as np
import pytest

from dinomill.errors import ConfigError
from dinomill.images.sampler import Sampler, permute


@pytest.mark.parametrize("size", [1, 2, 3, 17, 256, 257, 1000, 4097])
def test_an_epoch_is_a_permutation(size: int) -> None:
    rows = permute(np.arange(size), size, seed=3, epoch=5)
    assert sorted(rows) == list(range(size))


def test_epochs_and_seeds_differ_and_are_well_mixed() -> None:
    size = 2000
    orders = [permute(np.arange(size), size, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for i, a in enumerate(orders):
        # A random permutation keeps neither place nor neighbours: correlation has a standard deviation of 1/√size.
        assert abs(np.corrcoef(np.arange(size), a)[0, 1]) < 5 / np.sqrt(size)
        assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 5 / np.sqrt(size)
        for b in orders[i + 1 :]:
            assert (a == b).mean() < 0.01
    firsts = [int(permute(np.array([0]), 10, seed, 0)[0]) for seed in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    assert counts.min() > 140
    assert counts.max() < 270


def test_ranks_share_the_stream_of_one() -> None:
    whole = Sampler(101, 12, seed=7)
    ranks = [Sampler(101, 4, seed=7, rank=rank, world=3) for rank in range(3)]
    for step in (0, 1, 8, 9, 100):
        epochs, rows = whole.at(step)
        parts = [sampler.at(step) for sampler in ranks]
        assert (np.concatenate([part[0] for part in parts]) == epochs).all()
        assert (np.concatenate([part[1] for part in parts]) == rows).all()


def test_every_image_comes_once_an_epoch_across_steps() -> None:
    sampler = Sampler(50, 8, seed=1)
    batches = [sampler.at(step) for step in range(25)]
    epochs, rows = (np.concatenate(part) for part in zip(*batches, strict=True))
    for epoch in range(4):
        assert sorted(rows[epochs == epoch]) == list(range(50))


def test_a_hundred_million_images_take_no_time() -> None:
    _, rows = Sampler(142_109_386, 2048, seed=0).at(600_000)
    assert rows.max() < 142_109_386
    assert len(set(rows.tolist())) == 2048


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ConfigError, match="no image"):
        Sampler(0, 8, seed=0)
