from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from dinomill.storage.arrays import write_rows


def test_it_is_the_file_that_numpy_writes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(-100, 100, (1_000, 7)).astype(np.int16)
    np.save(tmp_path / "whole.npy", rows)
    write_rows(tmp_path / "rows.npy", np.array_split(rows.astype(np.float64), 9), shape=rows.shape, dtype=np.int16)
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert np.array_equal(np.load(tmp_path / "rows.npy", mmap_mode="r"), rows)


def test_a_full_disk_is_an_error_and_no_signal() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OSError) as caught:
        write_rows(full, [np.zeros((100_000, 4))], shape=(100_000, 4), dtype=np.float32)
    assert caught.value.errno == errno.ENOSPC
