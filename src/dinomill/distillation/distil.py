"""Distillation: a trained teacher in, small students out.

<output>/handle.json           StudentsHandle
<output>/plots/<student>.csv   the losses of each, which `dvc plots` draws
<output>/<student>/            as pretraining leaves its teacher: config.json, model.safetensors, history.parquet, …
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.students import resolve_students
from dinomill.distillation.teacher import Teacher, find_teacher, teaching
from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle, ModelHandle, StudentsHandle
from dinomill.images.channels import conversion, may_become
from dinomill.licences import DISTILLED, made_from, warn_if_unknown
from dinomill.models.kinds import ModelConfig
from dinomill.storage.apart import require_apart
from dinomill.storage.atomic import atomic_folder, write_text
from dinomill.storage.hashing import hash_json
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.hand_on import adopt, local_labelled, refuse_replaced_teacher, run_job
from dinomill.training.history import CURVE_NAME
from dinomill.training.job import TrainingJob, TrainingRecipe
from dinomill.training.teacher_cache import require_room, with_places

log = logging.getLogger(__name__)

PLOTS = "plots"


def distil(
    dataset: DatasetHandle, teacher: ModelHandle | None, labelled: str | None, config: DistillationConfig
) -> StudentsHandle:
    """Train students to see what a teacher sees.

    Args:
        dataset: What to train on; it need not be what the teacher was trained on.
        teacher: What pretraining made; None where it has not run, which another teacher in the configuration allows.
        labelled: Labelled images by which the monitor tells whether the first student learns.
        config: The stage's configuration.

    Raises:
        ConfigError: When students and teacher do not fit, or the teacher lies where the students will.
        Interrupted: When it was told to stop; run again, it continues.
        DinomillError: What went wrong in a worker.
    """
    if not config.own_teacher:
        require_apart("distillation.teacher", str(config.teacher), config.output)
    job = distillation_job(dataset, teacher, labelled, config)
    warn_if_unknown(job.licence, f"the teacher {config.teacher or job.teacher}", "distillation.licence")
    if said := conversion(dataset.channels, len(job.mean or dataset.mean), f"{dataset.folder}", "the teacher"):
        log.warning(said)
    if job.cache is not None:
        print(
            f"distillation: the teacher's features: {require_room(job, dataset)} in {job.cache.folder}", file=sys.stderr
        )
    if not config.own_teacher:
        refuse_replaced_teacher(job)
    run_job(job, config.launcher, dataset)
    with atomic_folder(config.output):
        pass  # students of another configuration do not stay beside the new ones
    students = {}
    for name in config.students:
        students[name] = adopt(job, dataset, student=name, name=name, output=config.output / name)
        students[name].save()
        curve = config.output / name / CURVE_NAME
        if curve.is_file():  # not in the work of earlier versions
            write_text(config.output / PLOTS / f"{name}.csv", curve.read_text(encoding="utf-8"))
    return StudentsHandle(
        folder=config.output,
        made_of=hash_json(job.result_identity()),
        students=students,
        champion=config.champion or next(iter(config.students)),
        given_teacher=not config.own_teacher,
        teacher=None if config.own_teacher else str(config.teacher),
        teacher_size=None if config.own_teacher or config.teacher_size == "auto" else config.teacher_size,
    )


def distillation_job(
    dataset: DatasetHandle, own: ModelHandle | None, labelled: str | None, config: DistillationConfig
) -> TrainingJob:
    """The resolved job of a configuration."""
    teacher = find_teacher(config, own)
    if not may_become(dataset.channels, len(teacher.mean)):
        raise ConfigError(
            "The dataset and the teacher differ in their number of channels.",
            found=f"{dataset.channels} in {dataset.folder}, {len(teacher.mean)} in {teacher.name}",
            action="distil on a dataset of the teacher's kind: only grey becomes colour, and colour grey, by itself",
        )
    provenance = made_from(DISTILLED, teacher.name, teacher.provenance, config.licence, key="distillation.licence")
    learnt = teaching(config, teacher, dataset)
    if learnt is not None and learnt.views is not None:
        learnt = with_places(learnt, GivenTeacher(teacher.address, teacher.sha256, learnt.size), len(teacher.mean))
    # The teacher must see what it was trained on, and the students see the same crops: their normalisation is its.
    shown = (teacher.mean, teacher.std)
    mean, std = (None, None) if shown == (dataset.mean, dataset.std) else shown
    drawn = {name: model.initialisation for name, model in config.students.items()}
    models = resolve_students(config, teacher.shape, teacher.name)
    warn_of_larger(models, teacher)
    return TrainingJob(
        stage="distillation",
        recipe=TrainingRecipe(**{name: getattr(config, name) for name in TrainingRecipe.model_fields}),
        models=models,
        initialisation={name: how for name, how in drawn.items() if how is not None} or None,
        step=config.step,
        runtime=config.runtime,
        dataset=dataset.folder,
        dataset_sha256=dataset.manifest_sha256,
        teacher=teacher.address,
        teacher_sha256=teacher.sha256,
        teacher_heads_sha256=teacher.heads_sha256 if learnt is None else None,
        teaching=learnt,
        cache=config.cache,
        licence=provenance.licence,
        origin=provenance.origin,
        mean=mean,
        std=std,
        labelled=local_labelled(labelled),
        work_root=config.work,
    )


def warn_of_larger(models: Mapping[str, ModelConfig], teacher: Teacher) -> None:
    """Say which students have more numbers than their teacher: they are not what distillation is for."""
    for name, model in models.items():
        count = count_parameters(model)
        if teacher.parameters and count > teacher.parameters:
            log.warning(
                "The student %s has %s parameters, its teacher %s %s: it is larger than what it learns from.",
                name,
                f"{count:,}",
                teacher.name,
                f"{teacher.parameters:,}",
            )


def count_parameters(model: ModelConfig) -> int:
    """Of a backbone; nothing is drawn."""
    import torch

    from dinomill.models.backbones import new_backbone

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in new_backbone(model).parameters())
