from __future__ import annotations

import json

import pytest
import torch

from dinomill.evaluation.protocols import cost
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.protocols.config import CostConfig
from dinomill.evaluation.protocols.cost import Cost
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import NetworkFeatures

QUICK = CostConfig(batch_sizes=(1, 8), seconds=0.05)


def test_what_was_timed_is_shown_again_and_names_the_processor(
    of_digits: NetworkFeatures, digits: ClassifiedSet, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "_energy_counter", lambda: None)
    protocol = Cost(QUICK)
    first = protocol.measure(of_digits, digits, settings)
    assert set(first) == {"images_per_second_1", "images_per_second_8", "size"}
    assert first["images_per_second_8"].outcomes.value > first["images_per_second_1"].outcomes.value > 1
    assert first["size"].outcomes.value == pytest.approx(4e-6 * of_digits.network.parameters)
    monkeypatch.setattr(Cost, "_time", None)
    again = protocol.measure(of_digits, digits, settings)
    assert {name: one.outcomes.value for name, one in again.items()} == {
        name: one.outcomes.value for name, one in first.items()
    }
    timed = protocol.measures(digits)[0]
    assert f"{torch.get_num_threads()} thread" in timed.note and not timed.percent


def test_energy_is_measured_or_stated_or_left_out(
    of_digits: NetworkFeatures, digits: ClassifiedSet, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "_energy_counter", lambda: None)
    assert all(one.name != "energy" for one in Cost(QUICK).measures(digits))
    stated = Cost(QUICK.model_copy(update={"watts": 8.0}))
    energy = next(one for one in stated.measures(digits) if one.name == "energy")
    assert "8 W" in energy.note and not energy.higher_is_better
    assert 0 < stated.measure(of_digits, digits, settings)["energy"].outcomes.value < 8
    counter = iter(range(0, 10**6, 5))
    monkeypatch.setattr(cost, "_energy_counter", lambda: float(next(counter)))
    counted = Cost(QUICK)
    assert "RAPL" in next(one for one in counted.measures(digits) if one.name == "energy").note
    assert counted.measure(of_digits, digits, settings)["energy"].outcomes.value > 0


def test_figures_that_were_damaged_are_timed_anew(
    of_digits: NetworkFeatures, digits: ClassifiedSet, tmp_path, settings: Settings
) -> None:
    own = Settings(settings.seed, settings.batch_size, tmp_path)
    Cost(QUICK).measure(of_digits, digits, own)
    (path,) = (tmp_path / "cost").iterdir()
    path.write_text("{")
    Cost(QUICK).measure(of_digits, digits, own)
    assert json.loads(path.read_text())["speed"]["1"] > 0
