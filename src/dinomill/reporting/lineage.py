"""Which results belong together: while a run goes on, what its later stages made before is still there.

A handle says by hashes what it was made of. Where that is not what the stage above holds now, it is of an earlier run,
and so is all that was made of it. Students of a teacher that was given are not made of pretraining's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from dinomill.handles import (
    HANDLE_NAME,
    DatasetHandle,
    EvaluationHandle,
    Handle,
    ModelHandle,
    PackageHandle,
    RegistrationHandle,
    ReportHandle,
    StudentsHandle,
)
from dinomill.stages import WRITES

AnyHandle = TypeVar("AnyHandle", bound=Handle)


class Left(NamedTuple):
    """What the stages left; None where a stage has no result."""

    curation: DatasetHandle | None = None
    pretraining: ModelHandle | None = None
    distillation: StudentsHandle | None = None
    evaluation: EvaluationHandle | None = None
    registration: RegistrationHandle | None = None
    packaging: PackageHandle | None = None
    reporting: ReportHandle | None = None
    unasked: frozenset[str] = frozenset()  # stages whose result nobody looked for: nothing is said of them

    @classmethod
    def in_folders(cls, folders: Mapping[str, Path]) -> Left:
        """The handles in the folders of globals.yml by name: ``curated``, ``teacher``, …"""
        places = {stage: folders.get(name) for stage, name in WRITES.items()}
        return cls(
            _load(DatasetHandle, places["curation"]),
            _load(ModelHandle, places["pretraining"]),
            _load(StudentsHandle, places["distillation"]),
            _load(EvaluationHandle, places["evaluation"]),
            _load(RegistrationHandle, places["registration"]),
            _load(PackageHandle, places["packaging"]),
            _load(ReportHandle, places["reporting"]),
            unasked=frozenset(stage for stage, place in places.items() if place is None),
        )

    def earlier(self) -> dict[str, str]:
        """The stages whose results are of an earlier run, and why: in the words that follow `of an earlier run:`."""
        found: dict[str, str] = {}
        for stage, inputs in self._made_of().items():
            for above, same in inputs.items():
                if above in found:
                    found[stage] = found[above]
                elif above not in self.unasked and getattr(self, above) is None:
                    found[stage] = f"{above} has no result at present"
                elif not same:
                    found[stage] = f"{above} has made another result since"
                if stage in found:
                    break
        return found

    def _made_of(self) -> dict[str, dict[str, bool]]:
        """For each result the stages that it was made of, and whether their results are still those."""
        data = self.curation.manifest_sha256 if self.curation else None
        teacher = self.pretraining.weights_sha256 if self.pretraining else None
        students = self.distillation.students if self.distillation else {}
        weights = {name: student.weights_sha256 for name, student in students.items()}
        given = self.distillation is not None and self.distillation.given_teacher
        made: dict[str, dict[str, bool]] = {}
        if one := self.pretraining:
            made["pretraining"] = {"curation": data in (None, one.dataset_sha256)}
        if self.distillation and students:
            made["distillation"] = {
                "curation": all(data in (None, one.dataset_sha256) for one in students.values()),
            }
            if not given:
                same = all(teacher in (None, one.teacher_sha256) for one in students.values())
                made["distillation"]["pretraining"] = same
        if measured := self.evaluation:
            made["evaluation"] = {
                **(
                    {}
                    if given
                    else {
                        "pretraining": None in (teacher, measured.teacher_sha256) or teacher == measured.teacher_sha256
                    }
                ),
                "distillation": not weights or measured.students_sha256 in ({}, weights),
            }
        if registered := self.registration:
            known = {*weights.values(), *([teacher] if teacher else [])}
            made["registration"] = {
                "evaluation": True,
                "distillation": not weights or registered.weights_sha256 in known,
            }
        if package := self.packaging:
            made["packaging"] = {"registration": registered is None or registered.version == package.version}
        if self.reporting:
            made["reporting"] = {"packaging": True}
        return made


def _load(kind: type[AnyHandle], folder: Path | None) -> AnyHandle | None:
    if folder is None or not (folder / HANDLE_NAME).is_file():
        return None
    return kind.load(folder)
