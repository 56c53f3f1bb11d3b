from __future__ import annotations

import gc

import torch

from dinomill.images.buffers import BufferPool


def test_memory_comes_back_when_nothing_refers_to_it() -> None:
    pool = BufferPool()
    first = torch.from_numpy(pool.take((4, 5)))
    address = first.data_ptr()
    first.fill_(1.0)
    row = first.reshape(-1)[7:9]  # any view keeps it
    del first
    gc.collect()
    other = torch.from_numpy(pool.take((4, 5)))
    assert other.data_ptr() != address
    other.fill_(2.0)
    assert row.tolist() == [1.0, 1.0]
    del row
    gc.collect()
    assert torch.from_numpy(pool.take((5, 4))).data_ptr() == address
    assert pool.take((0, 3)).shape == (0, 3)
