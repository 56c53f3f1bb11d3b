from __future__ import annotations

import pytest

from dinomill.serving.processes import is_hidden, shown, worker_count


def test_what_may_be_a_secret_is_left_out() -> None:
    environment = {"PATH": "/bin", "AWS_REGION": "x", "hf_token": "x", "MY_API_KEY": "x", "OMP_NUM_THREADS": "1"}
    assert shown(environment) == {"PATH": "/bin", "OMP_NUM_THREADS": "1"}
    assert not is_hidden("CUDA_VISIBLE_DEVICES")


def test_workers_are_counted_by_the_cores_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert [worker_count(0, threads) for threads in (1, 2, 4, 12)] == [4, 3, 1, 1]
    assert worker_count(7, 12) == 7
