"""Distillation: a trained teacher in, small students out.

<output>/handle.json           StudentsHandle
<output>/<student>/            as pretraining leaves its teacher: config.json, model.safetensors, history.parquet, …
"""

from __future__ import annotations

from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.students import resolve_students
from dinomill.errors import ConfigError
from dinomill.handles import HEADS_NAME, DatasetHandle, ModelHandle, StudentsHandle
from dinomill.models import read_config
from dinomill.storage.atomic import atomic_folder
from dinomill.storage.hashing import hash_file, hash_json
from dinomill.training.hand_on import adopt, local_labelled, run_job
from dinomill.training.job import TrainingJob, TrainingRecipe


def distil(
    dataset: DatasetHandle, teacher: ModelHandle, labelled: str | None, config: DistillationConfig
) -> StudentsHandle:
    """Train students to see what a teacher sees.

    Args:
        dataset: What to train on; it need not be what the teacher was trained on.
        teacher: An exported teacher with its heads.
        labelled: Labelled images by which the monitor tells whether the first student learns.
        config: The stage's configuration.

    Raises:
        ConfigError: When students and teacher do not fit.
        Interrupted: When it was told to stop; run again, it continues.
        DinomillError: What went wrong in a worker.
    """
    job = distillation_job(dataset, teacher, labelled, config)
    run_job(job, config.launcher, dataset)
    with atomic_folder(config.output):
        pass  # students of another configuration do not stay beside the new ones
    students = {}
    for name in config.students:
        students[name] = adopt(job, dataset, student=name, name=name, output=config.output / name)
        students[name].save()
    return StudentsHandle(
        folder=config.output,
        config_hash=hash_json(job.result_identity()),
        students=students,
        champion=config.champion or next(iter(config.students)),
    )


def distillation_job(
    dataset: DatasetHandle, teacher: ModelHandle, labelled: str | None, config: DistillationConfig
) -> TrainingJob:
    """The resolved job of a configuration."""
    if dataset.channels != len(teacher.mean):
        raise ConfigError(
            "The dataset and the teacher differ in their number of channels.",
            found=f"{dataset.channels} in {dataset.folder}, {len(teacher.mean)} in {teacher.folder}",
            action="distil on a dataset of the teacher's kind",
        )
    # The teacher must see what it was trained on; what it was trained on is usually this dataset.
    own = (tuple(teacher.mean), tuple(teacher.std))
    mean, std = (None, None) if own == (dataset.mean, dataset.std) else own
    drawn = {name: model.initialisation for name, model in config.students.items()}
    return TrainingJob(
        stage="distillation",
        recipe=TrainingRecipe(**{name: getattr(config, name) for name in TrainingRecipe.model_fields}),
        models=resolve_students(config, read_config(teacher.folder)["model"], teacher.name),
        initialisation={name: how for name, how in drawn.items() if how is not None} or None,
        step=config.step,
        runtime=config.runtime,
        dataset=dataset.folder,
        dataset_sha256=dataset.manifest_sha256,
        teacher=teacher.folder,
        teacher_sha256=teacher.weights_sha256,
        teacher_heads_sha256=hash_file(heads) if (heads := teacher.folder / HEADS_NAME).is_file() else None,
        mean=mean,
        std=std,
        labelled=local_labelled(labelled),
        work_root=config.work,
    )
