"""How long each stage will take, how much memory and disk: what was measured, times how often it happens.

<conf/NAME>/plan.json    the Prediction, beside the environment that it belongs to
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from dinomill.config import Config
from dinomill.curation.scan.signatures import SIGNATURE_LENGTH
from dinomill.errors import InputError
from dinomill.packaging.config import PackagingConfig
from dinomill.planning.choices import Measured, Wish
from dinomill.planning.machine import Machine
from dinomill.planning.pool import Pool
from dinomill.planning.shape import Shape, cache_megabytes
from dinomill.storage.atomic import write_text

PLAN_NAME = "plan.json"
IMAGES_PER_SCAN = 512  # of a task, as curation divides the work

# Seconds that stages took besides their work, on a machine on which `import_seconds` was as below: starting DVC, Kedro
# and what the stage imports, the gates' Data Docs, MLflow's records, TorchServe's start and its trial.
_REFERENCE_IMPORT = 4.0
_FIXED = {
    "curation": 17.0,
    "pretraining": 9.0,
    "distillation": 9.0,
    "evaluation": 13.0,
    "registration": 11.0,
    "packaging": 16.0,
    "reporting": 9.0,
}
_GATES = 0.0006  # seconds a file: tables, gates, the page
_SEARCH = 0.0008  # seconds an image: copies, seeds, clusters
_PROBES = 0.0015  # seconds a bank image and network: kNN and the linear probe with its ten strengths
_INDEXED: int = PackagingConfig.model_fields["index"].default  # images of the package's index, unless it is told
_INDEX_BYTES = 1200  # of one of them: its embedding in half precision, path and sha256
_CURATING = 680 * 2**20  # bytes of the Kedro process of curation, with tables, gates and the page
_PARENT = 480 * 2**20  # bytes of the Kedro process beside what is computed
_WORKER = 420 * 2**20  # bytes of a process that embeds


class StagePrediction(Config):
    """What one stage will take."""

    images: int = Field(ge=0, description="images that go through it, each time that they do")
    seconds: float = Field(ge=0, description="from its start to its end")
    memory_bytes: int = Field(ge=0, description="peak of its processes together, bytes")
    disk_bytes: int = Field(ge=0, description="that it leaves, bytes")


class Prediction(Config):
    """What a whole run will take."""

    stages: dict[str, StagePrediction] = Field(description="by name, in the order in which they run")
    machine: str = Field(default="", description="the machine on which it was measured")
    measured: bool = Field(default=True, description="false: guessed from sizes, nothing was measured")
    hours: float = Field(default=0.0, description="that were asked for")
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of each file of the environment as written")

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(stage.seconds for stage in self.stages.values())

    @property
    def memory_bytes(self) -> int:
        """Peak of the whole run."""
        return max(stage.memory_bytes for stage in self.stages.values())

    @property
    def disk_bytes(self) -> int:
        """Of the whole run."""
        return sum(stage.disk_bytes for stage in self.stages.values())

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it.

        Raises:
            InputError: When it is not there or is no prediction.
        """
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise InputError(
                f"{path} holds no prediction.",
                found=str(error).splitlines()[0],
                action="make it anew: `dinomill init NAME … --force`",
            ) from None


class Steps(Config):
    """How often the measured things happen."""

    pretraining: int = Field(ge=0, description="steps")
    distillation: int = Field(ge=0, description="steps")
    looks: int = Field(default=4, ge=0, description="of the monitor, in each of the two")
    look_images: int = Field(default=512, ge=0, description="unlabelled images a look")
    look_labelled: int = Field(default=0, ge=0, description="labelled images a look")
    random_networks: int = Field(default=3, ge=1, description="random networks that evaluation compares with")
    bank: int = Field(default=0, ge=0, description="labelled images that evaluation learns from")
    queries: int = Field(default=0, ge=0, description="labelled images that it scores")
    images_per_task: int = Field(default=1024, ge=1, description="images that one task of curation embeds")


def predict(wish: Wish, pool: Pool, machine: Machine, shape: Shape, measured: Measured, steps: Steps) -> Prediction:
    """What every stage of a run will take."""
    slow = measured.import_seconds / _REFERENCE_IMPORT
    fixed = {name: seconds * slow for name, seconds in _FIXED.items()}
    stages = {
        "curation": _curation(wish, pool, machine, measured, steps, fixed["curation"]),
        "pretraining": _training(wish, pool, machine, shape, measured, steps, fixed["pretraining"], "pretraining"),
        "distillation": _training(wish, pool, machine, shape, measured, steps, fixed["distillation"], "distillation"),
        "evaluation": _evaluation(wish, machine, measured, steps, fixed["evaluation"]),
    }
    if wish.teacher is not None:
        del stages["pretraining"]
    export = measured.export_bytes
    stages |= {
        "registration": _light(fixed["registration"], _PARENT + export, export),
        "packaging": _packaging(pool, machine, measured, fixed["packaging"]),
        "reporting": _light(fixed["reporting"], _PARENT, 4 * 2**20),
    }
    return Prediction(stages=stages, machine=str(machine), measured=not measured.guessed, hours=wish.hours)


def rounds(items: int, per_task: int, workers: int) -> float:
    """Items that the busiest worker has: tasks are not divided."""
    tasks = -(-items // per_task)
    if tasks <= 1 or workers <= 1:
        return items
    # Tasks of equal length end together, but for the last round, which may be short.
    return min(items, (-(-tasks // workers)) * per_task)


def _curation(
    wish: Wish, pool: Pool, machine: Machine, measured: Measured, steps: Steps, fixed: float
) -> StagePrediction:
    others = wish.bank + wish.queries + wish.seed_images
    files, images = pool.files + others, pool.images + others
    scan = rounds(files, IMAGES_PER_SCAN, machine.cores) * measured.scan_seconds
    embed = rounds(images, steps.images_per_task, machine.cores) * measured.embed_seconds
    # The trial does everything in one process; a worker of the run does one thing.
    each = 0.8 * measured.curation_memory
    processes = min(machine.cores, max(-(-images // steps.images_per_task), 1))
    tables = files * (_GATES + _SEARCH) * measured.import_seconds / _REFERENCE_IMPORT
    return StagePrediction(
        images=files,
        seconds=fixed + scan + embed + tables,
        memory_bytes=int(_CURATING + processes * each + pool.largest_bytes),
        # Shards, hard links aside; features, signatures, rows of tables.
        disk_bytes=pool.bytes * 2 + images * (2 * 1280 + SIGNATURE_LENGTH + 400),
    )


def _training(
    wish: Wish, pool: Pool, machine: Machine, shape: Shape, measured: Measured, steps: Steps, fixed: float, stage: str
) -> StagePrediction:
    first = stage == "pretraining"
    count = steps.pretraining if first else steps.distillation
    step = measured.pretraining_step if first else measured.distillation_step
    rate = measured.teacher_rate if first else measured.student_rate
    # Every image is decoded once, and kept; a large one is decoded whenever it is seen, which the steps show.
    decoding = min(pool.distinct, count * shape.batch) * pool.seconds_an_image / machine.cores
    shown = 1.5 * pool.short_side.median * pool.long_side.median
    kept = min(shown, (2 * shape.image_size) ** 2) * pool.distinct * shape.channels
    held = kept if pool.decoded_bytes(shape.channels) <= 1e6 * cache_megabytes(pool, machine, shape) else 0.0
    seen = steps.look_images + (steps.look_labelled if wish.labelled else 0)
    looking = steps.looks * seen / rate + seen * measured.scan_seconds
    held += 0.0 if wish.seeds else pool.largest_bytes  # among what seeds ask for there is seldom such a picture
    held += seen * 4 * shape.channels * shape.image_size**2
    started = measured.pretraining_fixed if first else measured.distillation_fixed
    memory = measured.pretraining_memory if first else measured.distillation_memory
    disk = measured.pretraining_disk if first else measured.distillation_disk
    return StagePrediction(
        images=count * shape.batch,
        seconds=fixed + started + decoding + count * step + looking,
        memory_bytes=int(_PARENT + memory + held),
        disk_bytes=disk,
    )


def _evaluation(wish: Wish, machine: Machine, measured: Measured, steps: Steps, fixed: float) -> StagePrediction:
    if wish.labelled is None:
        return _light(fixed / 3, _PARENT, 2**16)
    images = steps.bank + steps.queries
    started = 1 if wish.start else 0
    forward = images * ((steps.random_networks + 1 + started) / measured.teacher_rate + 1 / measured.student_rate)
    # A reference beside them, which is curation's network: docs/evaluation.md.
    decoding = images * (measured.scan_seconds * (1 + started) + measured.embed_seconds) / machine.cores
    networks = 5 + started
    probes = _PROBES * steps.bank * networks * measured.import_seconds / _REFERENCE_IMPORT
    return StagePrediction(
        images=images,
        seconds=fixed + forward + decoding + probes,
        memory_bytes=_PARENT + measured.pretraining_memory // 2,
        disk_bytes=images * networks * 4096 + 2**20,
    )


def _packaging(pool: Pool, machine: Machine, measured: Measured, fixed: float) -> StagePrediction:
    export = measured.export_bytes
    indexed = min(_INDEXED, pool.distinct)
    # The index is made by one thread, which decodes each image and runs the student on it.
    each = pool.seconds_an_image + machine.cores / measured.student_rate
    return _light(fixed + indexed * each, _PARENT + _WORKER + 2 * export, 2 * export + indexed * _INDEX_BYTES)


def _light(seconds: float, memory: int, disk: int) -> StagePrediction:
    return StagePrediction(images=0, seconds=seconds, memory_bytes=memory, disk_bytes=disk)


def guess(pool: Pool, machine: Machine, shape: Shape) -> Measured:
    """Rates from sizes alone, to decide by before anything is measured, and where nothing can be."""
    speed = _speed(machine)
    globals_, locals_ = shape.image_size, shape.local_size
    student = 2 * shape.flops(shape.teacher, globals_) + shape.local_crops * shape.flops(shape.teacher, locals_)
    step = shape.batch * (3 * student + 2 * shape.flops(shape.teacher, globals_)) / speed
    small = 2 * shape.flops(shape.student, globals_) + 2 * shape.flops(shape.student, locals_)
    distil = shape.batch * (3 * small + 2 * shape.flops(shape.teacher, globals_)) / speed
    embed = 0.0012 if shape.embedder_size <= 64 else 0.004 if shape.embedder_size <= 128 else 0.012
    parameters = 12 * shape.teacher.embed_dim**2 * shape.teacher.depth
    disk = parameters * 4 * (3 * 5 + 6)
    return Measured(
        curation_memory=_WORKER,
        scan_seconds=max(pool.seconds_an_image, 1e-5),
        embed_seconds=embed + pool.seconds_an_image,
        pretraining_step=step,
        distillation_step=distil,
        pretraining_fixed=5.0,
        distillation_fixed=5.0,
        pretraining_memory=700 * 2**20 + 5 * 4 * parameters,
        distillation_memory=700 * 2**20 + 3 * 4 * parameters,
        teacher_rate=speed / shape.flops(shape.teacher, globals_),
        student_rate=speed / shape.flops(shape.student, globals_),
        import_seconds=_REFERENCE_IMPORT,
        pretraining_disk=disk,
        distillation_disk=disk // 2,
        export_bytes=parameters * 4,
        guessed=True,
    )


def _speed(machine: Machine) -> float:
    """Floating-point operations a second that training reaches, roughly."""
    if machine.gpus:
        return len(machine.gpus) * 40e12
    each = 200e9 if "amx" in machine.instructions else 100e9 if machine.bf16 else 50e9
    return machine.cores * each * 0.6
