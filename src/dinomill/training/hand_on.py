"""What the pretraining and distillation stages share: run a job if it is not done, and take over its result.

<output>/config.json  model.safetensors  heads.safetensors  history.parquet    of one network
<output>/recipe.json                                                           how it was trained
<output>/start/       the backbone that it started from, where it started from weights

<work>/run.json       the MLflow run that every start of this work goes on in
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from dinomill import tracking
from dinomill.errors import ConfigError
from dinomill.execution.launch import launch
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.features.licence import LICENCE, ORIGIN
from dinomill.handles import MACHINE_NAME, RECIPE_NAME, START_NAME, DatasetHandle, ModelHandle
from dinomill.images.whole import check_whole
from dinomill.licences import STARTED
from dinomill.models.known import UNKNOWN_LICENCE
from dinomill.models.pooling import pooled_dim
from dinomill.models.weights import WEIGHTS_NAME, add_sections, load_backbone
from dinomill.storage.atomic import atomic_folder, write_text
from dinomill.storage.hashing import hash_file, hash_json
from dinomill.training.handover import SUMMARY_NAME, is_finished, preprocessing
from dinomill.training.history import HISTORY_NAME
from dinomill.training.identity import left_behind, unfinished
from dinomill.training.job import TrainingJob
from dinomill.training.relay import NOT_TRACKED, Relay, relayed

log = logging.getLogger(__name__)

RUN_NAME = "run.json"
_OF_TEACHER = {"teacher_sha256", "teacher_heads_sha256"}


def run_job(job: TrainingJob, launcher: LauncherConfig, dataset: DatasetHandle) -> None:
    """Train in processes of their own, unless the work folder holds the finished result already.

    Raises:
        Interrupted: When it was told to stop; its state is saved.
        DinomillError: What went wrong in a worker.
    """
    for processes in launcher.world_sizes:
        job.batch_per_process(processes)  # refused here rather than in every process
    if not is_finished(job):
        check_whole(dataset, job.runtime.loader)
    run = _own_run(job)
    run.log_dataset("curated", job.dataset_sha256, str(job.dataset), rows=dataset.images)
    run.log_models_used([job.teacher_sha256])
    run.set_tags({"work": str(job.work), LICENCE: job.licence or UNKNOWN_LICENCE, ORIGIN: job.origin or ""})
    # The workers write the SQLite store of this machine themselves; they inherit the run's address. Of another store
    # they have no password, and other machines do not see a database of this one.
    apart = run.writes and (launcher.elsewhere or not run.tracking_uri.startswith("sqlite:"))
    if is_finished(job):
        log.info("The %s was finished before: taking its result from %s.", job.stage, job.work)
        if apart:  # it may have ended while nobody waited for it
            Relay(job, run).pass_on()
        return
    left = left_behind(job.work, job.identity(), finished="exported")
    if left is not None:
        print(f"{job.stage}: {left.sentence(job.stage)}", file=sys.stderr)
        left.named()
    from dinomill.training import worker  # started by its name; imported, because DVC watches what is imported

    runtime = job.runtime
    with relayed(job, run) if apart else nullcontext():
        launch(
            worker.__name__,
            job.save(),
            work=job.work,
            config=launcher,
            environment=NOT_TRACKED if apart else {},
            s3=runtime.mirror is not None or runtime.loader.shards is not None,
            places=places_of(job),
        )


def places_of(job: TrainingJob) -> list[Path]:
    """What the workers of a job read and write besides its work folder; they may be on other machines."""
    named = [job.labelled, None if job.cache is None else job.cache.folder]
    # What is no path of this machine is a name that means the same elsewhere.
    given = [Path(address) for address in (job.teacher, job.initial) if address and Path(address).exists()]
    return [job.dataset, *given, *(place for place in named if place is not None)]


def refuse_replaced_teacher(job: TrainingJob) -> None:
    """Refuse to begin anew beside an unfinished run of the same teacher's address that held other weights.

    Raises:
        ConfigError: With both hashes.
    """
    beside = unfinished(job.work, job.identity(), finished="exported")
    left = next((one for one in beside if not {key for key, _, _ in one.changed} - _OF_TEACHER), None)
    if left is None:
        return
    before = TrainingJob.load(left.folder / "job.json")
    if before.teacher != job.teacher:
        return
    raise ConfigError(
        f"The teacher {job.teacher} was replaced since the distillation began.",
        found="; ".join(f"{key} {new}" for key, _, new in left.changed),
        expected="; ".join(f"{key} {old}, as at step {left.step:,} of {left.folder}" for key, old, _ in left.changed),
        action=f"put the old file back to continue, or remove {left.folder} to begin anew with the new one",
    )


def _own_run(job: TrainingJob) -> tracking.Run:
    """The MLflow run of this work folder: that of its first start, where the store has it; then it goes on in it."""
    path = job.work / RUN_NAME
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["tracking_uri"] == tracking.attach().tracking_uri:
            tracking.continue_run(kept["run_id"])
    run = tracking.attach()
    if run.run_id is not None:
        write_text(path, json.dumps({"run_id": run.run_id, "tracking_uri": run.tracking_uri}) + "\n")
    return run


def adopt(
    job: TrainingJob, dataset: DatasetHandle, *, student: str, name: str, output: Path, initial: str | None = None
) -> ModelHandle:
    """Copy a trained network from the work folder to a stage's output, whole or not at all.

    Args:
        job: Whose result it is.
        dataset: What it was trained on.
        student: Its name in the job.
        name: Its name from now on.
        output: The folder to write.
        initial: What the weights that it started from are called; None for random ones.
    """
    with atomic_folder(output) as folder:
        for path in sorted((job.exported / student).iterdir()):
            shutil.copyfile(path, folder / path.name)
        write_text(folder / RECIPE_NAME, json.dumps(job.told(student), indent=2) + "\n")
        # Not when the weights were written: a licence that is stated later changes no weight.
        add_sections(folder, {LICENCE: job.licence or UNKNOWN_LICENCE, ORIGIN: job.origin})
        if initial is not None:
            shutil.copytree(job.work / START_NAME, folder / START_NAME)
            before = None if job.origin is None else job.origin.removeprefix(f"{STARTED} ")
            add_sections(folder / START_NAME, {LICENCE: job.licence or UNKNOWN_LICENCE, ORIGIN: before})
    summary = json.loads((job.exported / SUMMARY_NAME).read_text(encoding="utf-8"))
    step = int(summary["step"])
    backbone = load_backbone(output)
    shown = preprocessing(job, dataset)
    weights = hash_file(output / WEIGHTS_NAME)
    run = tracking.attach()
    run.set_tags({f"trained_with.{key}": value for key, value in summary.get("trained_with", {}).items()})
    if (job.exported / MACHINE_NAME).is_file():  # not in the work of earlier versions
        run.log_artifacts(job.exported / MACHINE_NAME)
    handle = ModelHandle(
        folder=output,
        made_of=hash_json(job.result_identity()),
        name=name,
        weights_sha256=weights,
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        embed_dim=pooled_dim(backbone.embed_dim, backbone.config.pooling),
        image_size=shown.image_size,
        mean=shown.mean,
        std=shown.std,
        images_seen=step * job.recipe.batch_size,
        steps=step,
        unreadable=int(summary.get("unreadable", 0)),
        history=output / HISTORY_NAME,
        dataset_sha256=job.dataset_sha256,
        teacher_sha256=job.teacher_sha256,
        initial=initial,
        initial_sha256=job.initial_sha256,
        licence=job.licence,
        origin=job.origin,
    )
    told = {"parameters", "embed_dim", "image_size", "images_seen", "steps", "dataset_sha256", "licence", "origin"}
    facts = {key: value for key, value in handle.model_dump(include=told).items() if value is not None}
    tracking.attach().log_model_made(name, weights, facts)
    return handle


def local_labelled(location: str | None) -> Path | None:
    """The labelled images for the monitor, where they are on this machine; a URI is left to the evaluation."""
    if location is None or "://" in location:
        return None
    return Path(location)
