"""The cards of all networks of a run, as Markdown files."""

from __future__ import annotations

import re

from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.registration.card_of import model_card
from dinomill.registration.card_parts import markdown, safe

_NO_NAME = re.compile(r"[^\w.-]+")


def all_cards(
    teacher: ModelHandle,
    students: StudentsHandle,
    curated: DatasetHandle,
    evaluation: EvaluationHandle,
    *,
    watts: float | None,
) -> dict[str, str]:
    """The teacher's card and each student's, by names that files can have.

    Args:
        teacher: The pretrained network.
        students: The distilled ones.
        curated: What they were trained on.
        evaluation: The tables of scores.
        watts: Of the machine while it trained, where somebody stated it.
    """
    models = {"teacher": teacher} | {f"student-{name}": one for name, one in students.students.items()}
    return {
        _NO_NAME.sub("_", name): f"# {safe(one.name)}\n\n{markdown(model_card(one, curated, evaluation, watts=watts))}"
        for name, one in models.items()
    }
