from __future__ import annotations

import numpy as np

from dinomill.vectors.components import best_of_each, connected_components


def test_copies_of_copies_are_one_component_and_its_best_stays() -> None:
    component = connected_components(7, np.array([0, 2, 5]), np.array([2, 4, 6]))
    assert component[0] == component[2] == component[4]
    assert component[5] == component[6]
    assert len(np.unique(component)) == 4  # 1 and 3 are alone
    rank = np.array([5, 0, 3, 1, 4, 6, 2])
    best = best_of_each(component, np.arange(7), rank)
    assert set(best.tolist()) == {2, 1, 3, 6}
    some = best_of_each(component, np.array([0, 5]), rank)
    assert sorted(some.tolist()) == [-1, -1, 0, 5]
