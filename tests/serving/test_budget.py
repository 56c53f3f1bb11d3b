from __future__ import annotations

import pytest

from dinomill.errors import InputError
from dinomill.serving.budget import Budget


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_small_requests_come_first_and_what_does_not_fit_is_left() -> None:
    budget = Budget(30, rate=5)
    assert budget.images == 105  # 5 a second in 70% of 30 seconds
    assert budget.admit({0: 64, 1: 1, 2: 40, 3: 1, 4: 64}) == [1, 3, 2]
    assert budget.admit({7: 64}) == [7]
    assert budget.admit({}) == []
    refusal = budget.refusal(64)
    assert refusal.status == 503
    assert "some 105" in str(refusal)


def test_a_request_that_could_never_be_answered_is_refused() -> None:
    budget = Budget(30, rate=1)
    budget.require_possible(42)
    with pytest.raises(InputError, match="more images than can be computed in time") as caught:
        budget.require_possible(64)
    assert "at most 21" in str(caught.value)


def test_it_stops_when_time_is_up_and_learns_from_it() -> None:
    clock = _Clock()
    budget = Budget(10, rate=100, clock=clock)
    assert budget.admit({0: 500, 1: 400}) == [1]
    done = 0
    for _ in budget.in_time([b""] * 400):
        done += 1
        clock.now += 1
    assert done == 8  # the eighth began at the last moment
    budget.learn(done)
    assert budget.rate == pytest.approx(100 - 0.3 * 99)
    for _ in range(40):
        budget.admit({0: 1})
        clock.now += 1
        budget.learn(1)
    assert budget.images == 7
    budget.require_possible(64)  # it was faster once, and may be so again
