from __future__ import annotations

import pytest

from dinomill.planning.prediction import Steps, guess, predict, rounds
from dinomill.planning.recipe import plan
from dinomill.planning.shape import decide
from tests.planning.pools import COLOUR, LABELLED, machine, wish


def test_tasks_are_not_divided() -> None:
    assert rounds(1000, 2000, 8) == 1000, "one task has one worker"
    assert rounds(4000, 1000, 2) == 2000
    assert rounds(5000, 1000, 2) == 3000, "three rounds, the last with one worker idle"
    assert rounds(5000, 1000, 1) == 5000


def test_each_part_takes_what_was_measured_times_how_often() -> None:
    asked, here = wish(**LABELLED), machine()
    shape = decide(asked, COLOUR, here)
    measured = guess(COLOUR, here, shape)
    few, many = (
        predict(
            asked, COLOUR, here, shape, measured, Steps(pretraining=count, distillation=500, bank=2000, queries=1000)
        )
        for count in (2000, 3000)
    )
    taken = many.stages["pretraining"].seconds - few.stages["pretraining"].seconds
    assert taken == pytest.approx(1000 * measured.pretraining_step)
    assert many.stages["distillation"] == few.stages["distillation"]
    slow = measured.model_copy(update={"embed_seconds": measured.embed_seconds + 0.01})
    longer = predict(asked, COLOUR, here, shape, slow, Steps(pretraining=2000, distillation=500))
    assert longer.stages["curation"].seconds - few.stages["curation"].seconds > 0.01 * COLOUR.files / 2


def test_the_hours_are_kept_where_they_can_be() -> None:
    for hours in (0.3, 1.0, 2.0):
        made = plan(wish(hours=hours, **LABELLED), COLOUR, machine())
        assert made.prediction.seconds <= hours * 3600
        assert made.prediction.seconds >= 0.75 * hours * 3600
        assert made.prediction.memory_bytes == max(s.memory_bytes for s in made.prediction.stages.values())


def test_nothing_is_measured_without_labels() -> None:
    assert plan(wish(), COLOUR, machine()).prediction.stages["evaluation"].images == 0
