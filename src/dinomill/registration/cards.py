"""The cards of all networks of a run, as Markdown files, and the page of the registered version."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinomill import tracking
from dinomill.handles import MACHINE_NAME, DatasetHandle, EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.licences import of_handle
from dinomill.models.known import UNKNOWN_LICENCE
from dinomill.registration.card import version_card
from dinomill.registration.card_of import model_card
from dinomill.registration.card_parts import markdown, safe
from dinomill.registration.config import RegistrationConfig
from dinomill.registration.energy import spent
from dinomill.registration.gate import Check
from dinomill.storage.atomic import write_text

_NO_NAME = re.compile(r"[^\w.-]+")


def all_cards(
    teacher: ModelHandle | None,
    students: StudentsHandle,
    curated: DatasetHandle,
    evaluation: EvaluationHandle,
) -> dict[str, str]:
    """The teacher's card and each student's, by names that files can have.

    Args:
        teacher: The pretrained network; None where the students had another teacher.
        students: The distilled ones.
        curated: What they were trained on.
        evaluation: The tables of scores.
    """
    models = ({} if teacher is None else {"teacher": teacher}) | {
        f"student-{name}": one for name, one in students.students.items()
    }
    return {
        _NO_NAME.sub("_", name): f"# {safe(one.name)}\n\n{markdown(model_card(one, curated, evaluation))}"
        for name, one in models.items()
    }


@dataclass(frozen=True)
class Texts:
    """What lies beside a registration's handle."""

    version: str  # the registered version's card
    cards: dict[str, str]  # that of every network


def texts_of(
    model: ModelHandle,
    teacher: ModelHandle | None,
    students: StudentsHandle,
    curated: DatasetHandle,
    evaluation: EvaluationHandle,
    checks: Sequence[Check],
    config: RegistrationConfig,
) -> Texts:
    """The cards without commits and runs and what these took, which differ where the result is the same."""
    licence = {"licence": of_handle(model).licence or UNKNOWN_LICENCE}
    own = version_card(config.name, model, curated, evaluation, checks, licence, aliases=config.aliases)
    return Texts(own, all_cards(teacher, students, curated, evaluation))


def page_of(
    store: str,
    model: ModelHandle,
    curated: DatasetHandle,
    evaluation: EvaluationHandle,
    checks: Sequence[Check],
    tags: Mapping[str, str],
    config: RegistrationConfig,
) -> str:
    """What is known of the version for its page in the registry, where hours and energy of its training may stand.

    The page itself is what of it fits there: ``page_length.fitted``.
    """
    cost = spent(_machine(store, tags, model), config.watts)
    return version_card(config.name, model, curated, evaluation, checks, tags, cost, config.aliases)


def keep(run: tracking.Run, texts: Texts, page: str) -> None:
    """Log the cards of all networks and the whole page of the version: ``cards/`` among the run's artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {**texts.cards, "version": page}.items():
            write_text(Path(folder) / f"{name}.md", text)
        run.log_artifacts(Path(folder), "cards")


def _machine(store: str, tags: Mapping[str, str], model: ModelHandle) -> Path | None:
    """What the run that trained a network wrote down of its machine; earlier versions wrote it into the curve."""
    run = tags.get("training_run")
    found = None if run is None else tracking.run_artifact(store, run, MACHINE_NAME)
    return model.history if found is None and run is not None else found
