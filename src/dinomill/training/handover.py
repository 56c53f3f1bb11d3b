"""The finished weights of a training, as the next stage takes them.

<work>/exported-last/             whole or absent
  summary.json                    the step whose weights these are, and the steps of the run
  machine.parquet                 how fast it went, and what the machine took: of this run alone, no part of a result
  <name>/history.parquet          the curve
  <name>/curve.csv, looks.csv     the same for `dvc plots`
  <name>/config.json              shape and preprocessing; <name> is a student's, `student` in pretraining
  <name>/model.safetensors        its moving average
  <name>/heads.safetensors        its DINO and iBOT heads, for a distillation that has it as its teacher; of a
                                  regression, its projectors
  <name>/look_00000080.jpg        what the monitor saw at a few looks (of the first student)

<work>/start/                     the backbone that training started from, with the trained one's preprocessing
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping

import torch
from safetensors.torch import save_file
from torch import Tensor

from dinomill.handles import HEADS_NAME, MACHINE_NAME, START_NAME, DatasetHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformerConfig, save_backbone
from dinomill.models.hardware import arithmetic
from dinomill.models.weights import from_tensors
from dinomill.storage.atomic import atomic_file, atomic_folder, write_text
from dinomill.training.checkpoint_state import full_tensors
from dinomill.training.engine import Engine
from dinomill.training.given_weights import starting_backbone
from dinomill.training.history import HISTORY_NAME, History
from dinomill.training.job import TrainingJob
from dinomill.training.monitor import LOOKS_NAME

log = logging.getLogger(__name__)

SUMMARY_NAME = "summary.json"

# Larger images are measured as ImageNet's are: the shorter side to 256, the central 224 pixels.
_SMALL = 64
_MARGIN = 256 / 224


def preprocessing(job: TrainingJob, dataset: DatasetHandle) -> PreprocessingConfig:
    """How an image becomes the input of the trained networks."""
    side = job.recipe.crops.global_size
    mean, std = job.mean or dataset.mean, job.std or dataset.std
    made = PreprocessingConfig.square(side, mean, std, margin=1.0 if side <= _SMALL else _MARGIN)
    return made.model_copy(update={"value_range": dataset.value_range})


def keep_start(job: TrainingJob, dataset: DatasetHandle) -> None:
    """Write the backbone that a training starts from, as an export of its own; nothing for random weights.

    Evaluation shows it beside the trained one: at the same preprocessing and pooling, so that what differs is training.
    """
    if job.initial is None or (job.work / START_NAME).is_dir():
        return
    (model,) = job.models.values()
    assert isinstance(model, VisionTransformerConfig), "other families start from no weights"
    with atomic_folder(job.work / START_NAME) as folder:
        save_backbone(folder, starting_backbone(model, job.initial), extra=preprocessing(job, dataset).section())


def export(
    job: TrainingJob, dataset: DatasetHandle, engine: Engine, history: History, *, step: int, unreadable: int = 0
) -> None:
    """Write the averages of all students; every process must call it, the main one writes.

    Args:
        job: Whose training it was.
        dataset: For the preprocessing.
        engine: Holds the weights.
        history: The curve.
        step: The step whose weights the engine holds.
        unreadable: Images that others took the places of, because they could not be read any more.

    Raises:
        StorageError: When the disk is full or not writable.
    """
    state = full_tensors(engine.module, "averages.")
    if not engine.is_main:
        return
    section = preprocessing(job, dataset).section()
    with atomic_folder(job.exported) as folder:
        for name, config in job.models.items():
            tensors = _under(state, f"averages.{name}.backbone.")
            save_backbone(folder / name, from_tensors(config, tensors, where="the trained network"), extra=section)
            heads = {
                f"{head}.{key}": tensor.contiguous()
                for head in engine.module.average(name).parts()
                if head != "backbone"
                for key, tensor in _under(state, f"averages.{name}.{head}.").items()
            }
            with atomic_file(folder / name / HEADS_NAME) as path:
                save_file(heads, path)
            history.write(folder / name / HISTORY_NAME, prefix=f"{name}/" if len(job.models) > 1 else "")
            history.write_curves(folder / name, prefix=f"{name}/" if len(job.models) > 1 else "")
            for picture in sorted((job.work / LOOKS_NAME).glob("look_*.jpg")):
                shutil.copyfile(picture, folder / name / picture.name)
        history.write_machine(folder / MACHINE_NAME)
        summary = {"step": step, "steps": job.recipe.steps, "torch": torch.__version__, "unreadable": unreadable}
        summary |= {"trained_with": {**arithmetic(engine.world.device), "processes": engine.world.size}}
        write_text(folder / SUMMARY_NAME, json.dumps(summary) + "\n")


def is_finished(job: TrainingJob) -> bool:
    """Whether the work folder holds the finished result of just as many steps; of others, it is trained on."""
    path = job.exported / SUMMARY_NAME
    if not path.is_file():
        return False
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return int(summary["step"]) > 0 and bool(summary.get("steps", job.recipe.steps) == job.recipe.steps)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s): the result is written again, from the last checkpoint.", path, error)
        return False


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
