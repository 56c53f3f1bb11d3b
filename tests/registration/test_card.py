from __future__ import annotations

from pathlib import Path

from dinomill.handles import DatasetHandle, StudentsHandle
from dinomill.registration.card import version_card
from tests.reporting.test_scores import evaluated as with_a_further_set


def test_every_table_is_on_the_card_with_its_units(
    tmp_path: Path, students: StudentsHandle, curated: DatasetHandle
) -> None:
    model = students.students[students.champion].model_copy(update={"name": "vit"})
    card = version_card("mill", model, curated, with_a_further_set(tmp_path), (), {})
    assert card.startswith("vit: kNN 70.0%, linear probe 60.0%; ")
    assert "### Scores on rooms" in card and "| model | kind | parameters | RMSE (m) | δ1 |" in card
    assert "| **vit** | teacher | 0.00 M | 0.412 [0.402, 0.422] | 87.1 [86.1, 88.1] |" in card


def test_the_channels_are_the_networks_not_the_datasets(
    tmp_path: Path, students: StudentsHandle, curated: DatasetHandle
) -> None:
    model = students.students[students.champion].model_copy(update={"mean": (0.5,) * 3, "std": (0.2,) * 3})
    grey = curated.model_copy(update={"channels": 1, "mean": (0.5,), "std": (0.2,)})
    card = version_card("mill", model, grey, with_a_further_set(tmp_path), (), {})
    assert f"Images are brought to {model.image_size} px and 3 channels: smaller" in card
