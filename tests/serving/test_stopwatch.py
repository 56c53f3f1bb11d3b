from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dinomill.serving.stopwatch import Stopwatch


def test_times_are_summed_over_threads_and_taken_once() -> None:
    watch = Stopwatch()

    def work(_: int) -> None:
        with watch.on("decode"):
            time.sleep(0.02)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    taken = watch.take()
    assert list(taken) == ["decode"]
    assert taken["decode"] >= 0.08
    assert watch.take() == {}


def test_a_block_that_fails_counts() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError), watch.on("compute"):
        raise ValueError
    assert "compute" in watch.take()
