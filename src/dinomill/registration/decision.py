"""What the gate decided of a version, kept in the registry with the version, so that every later look says the same.

A requirement compares with the champion of that moment. Asked again, when this version is the champion itself or
another has come since, it would be answered otherwise, although nothing was decided anew.

Tags of the version:

    decided_on    sha256 of what was judged: scores, requirements, weights
    checks        JSON: [passed, sentence, what could not be done, what it was compared with], one a requirement
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dinomill.errors import ConfigError
from dinomill.handles import EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.registration.config import CHAMPION, RegistrationConfig
from dinomill.registration.gate import Check
from dinomill.scores import ScoreTable
from dinomill.storage.hashing import hash_json

_DECIDED_ON = "decided_on"
_CHECKS = "checks"


def chosen(teacher: ModelHandle | None, students: StudentsHandle, config: RegistrationConfig) -> ModelHandle:
    """The network to register.

    Raises:
        ConfigError: When it is to be pretraining's, which is no part of this run.
    """
    if config.network == "student":
        return students.students[students.champion]
    if teacher is None:
        raise ConfigError(
            "There is no teacher of this project's own to register.",
            found=f"registration.network: teacher, and the students were taught by {students.teacher or 'another one'}",
            expected="a network that pretraining made and that was measured",
            action="set registration.network to student, or distillation.teacher to null",
        )
    return teacher


def made_of(model: ModelHandle, evaluation: EvaluationHandle, config: RegistrationConfig) -> str:
    """What a registration depends on, beside the champion of the moment."""
    asked = config.model_dump(mode="json", exclude={"output", "tracking"})
    tables = {
        name: table.model_dump(mode="json", include=set(ScoreTable.model_fields)) for name, table in _all(evaluation)
    }
    made: list[Any] = [asked, tables, model.weights_sha256, model.dataset_sha256, model.licence, model.origin]
    if not evaluation.measured_teacher_of(model):  # the gate then does not compare it with the measured one
        made.append([model.teacher_sha256, evaluation.teacher_sha256])
    return hash_json(made)


def _all(evaluation: EvaluationHandle) -> list[tuple[str, ScoreTable]]:
    return [(name or "", table) for name, table in evaluation.tables().items()]


def decision_tags(decided_on: str, checks: Sequence[Check]) -> dict[str, str]:
    """The tags that keep a decision."""
    kept = [[check.passed, check.sentence, check.undone, check.about] for check in checks]
    return {_DECIDED_ON: decided_on, _CHECKS: json.dumps(kept, ensure_ascii=False)}


def decided(tags: Mapping[str, str], decided_on: str) -> tuple[Check, ...] | None:
    """The decision that a version's tags hold; None where there is none, or it was on something else."""
    return said(tags) if tags.get(_DECIDED_ON) == decided_on else None


def said(tags: Mapping[str, str]) -> tuple[Check, ...] | None:
    """What was decided of a version when it was registered; None where its tags do not say."""
    try:
        return tuple(_check(*one) for one in json.loads(tags[_CHECKS]))
    except (KeyError, ValueError, TypeError, IndexError):  # edited by hand
        return None


def _check(passed: bool, sentence: str, undone: str | None = None, about: str | None = None, *_: Any) -> Check:
    if about is None:  # a version of before: the sentence alone says what was compared
        about = CHAMPION if "champion" in sentence else ""
    return Check(bool(passed), str(sentence), undone, about)
