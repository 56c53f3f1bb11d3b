"""What is made once of a given teacher's features of the curated images: their spread, and centres of them.

<work>/teacher.safetensors     written once; a run that is continued goes on with the same numbers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dinomill.errors import DinomillError, InputError, Interrupted
from dinomill.execution.progress import progress
from dinomill.features.base import largest_difference_if_same
from dinomill.storage.atomic import atomic_file
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.job import TrainingJob
from dinomill.training.losses.dino import GLOBAL_CROPS
from dinomill.training.parallel import World, is_sharded
from dinomill.training.precision import set_deterministic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dinomill.models.student import CropFeatures

FITTED_NAME = "teacher.safetensors"
PARTS = ("classes", "patches")
# Patches of a crop that are looked at, evenly spread.
_PATCHES = 16
_BATCH = 32
# Directions (for regression: numbers) in which features hardly differ are amplified less: they are mostly noise.
_DAMPING = 1e-3


def shapes(job: TrainingJob) -> dict[str, tuple[int, ...]]:
    """Of the tensors that belong to a job's objective; what else is in the file is another's."""
    teaching = job.teaching
    assert teaching is not None
    if teaching.whitened_dim is None:
        return {f"{part}.{name}": (teaching.dim,) for part in PARTS for name in ("mean", "std")}
    found: dict[str, tuple[int, ...]] = {}
    for part in PARTS:
        found[f"{part}.mean"] = (teaching.dim,)
        found[f"{part}.matrix"] = (teaching.dim, teaching.whitened_dim)
        if teaching.prototypes is not None:
            found[f"{part}.centres"] = (teaching.prototypes, teaching.whitened_dim)
    return found


def prepare(job: TrainingJob, world: World, stopping: Callable[[], bool]) -> None:
    """Make the tensors of a job where they are missing, before its networks are built; every process calls it.

    Args:
        job: Whose teacher it is; one of another objective, or whose tensors are there, is left as it is.
        world: The processes; the main one makes them.
        stopping: Whether the process was told to stop; asked after each batch that the teacher looks at.

    Raises:
        Interrupted: In every process, when the main one was told to stop.
        InputError: In every process, what `fitted` came upon.
    """
    if job.teaching is None or job.teaching.objective not in ("clusters", "regression"):
        return
    problem: DinomillError | None = None
    if world.is_main and not (job.work / FITTED_NAME).is_file():
        set_deterministic(job.runtime.deterministic)
        device = torch.device("cpu") if is_sharded(job.runtime.parallel) else world.device
        try:
            fitted(job, GivenTeacher.of(job), device, stopping)
        except DinomillError as error:
            problem = error
    problem = world.from_main(problem)
    if problem is not None:
        raise problem


def fitted(
    job: TrainingJob, teacher: GivenTeacher, device: torch.device, stopping: Callable[[], bool] = lambda: False
) -> dict[str, Tensor]:
    """The tensors of a job, read or made; empty ones on the meta device.

    Raises:
        InputError: When the teacher's features are not finite, or too few for so many centres.
        Interrupted: When it was told to stop while the teacher looked.
    """
    from safetensors.torch import load_file, save_file

    if device.type == "meta":
        return {name: torch.empty(shape, device=device) for name, shape in shapes(job).items()}
    path = job.work / FITTED_NAME
    if not path.is_file():
        # Whether the file was there must not be seen in the students' first weights, which are drawn after this.
        with torch.random.fork_rng(devices=[]):
            made = _fit(job, teacher, device, stopping)
        with atomic_file(path) as temporary:
            save_file(made, temporary)
    found = load_file(path)
    # The order of the other processes, who only know the shapes: buffers travel in order.
    return {name: found[name] for name in shapes(job)}


def _fit(
    job: TrainingJob, teacher: GivenTeacher, device: torch.device, stopping: Callable[[], bool]
) -> dict[str, Tensor]:
    teaching = job.teaching
    assert teaching is not None
    found: dict[str, Tensor] = {}
    for part, rows in zip(PARTS, _rows(job, teacher, device, stopping), strict=True):
        if not bool(torch.isfinite(rows).all()):
            raise InputError(
                f"The teacher {job.teacher} gives numbers that are not finite.",
                found=f"{int((~torch.isfinite(rows)).any(dim=1).sum())} of {len(rows)} {part}",
                action="look whether it is whole, and whether its preprocessing fits the images",
            )
        if (most := largest_difference_if_same(rows)) is not None:
            raise InputError(
                f"The teacher {job.teacher} gives the same features for all {part}.",
                found=f"{len(rows):,} {part}, the largest difference {most:.1g}",
                expected="features that tell images apart",
                action="take another teacher, or look whether its preprocessing fits the images",
            )
        if teaching.whitened_dim is None:
            variance = rows.double().var(dim=0)
            spread = (variance + _DAMPING * variance.max().clamp(min=1e-12)).sqrt()
            found |= {f"{part}.mean": rows.double().mean(dim=0), f"{part}.std": spread}
            continue
        mean, matrix = whitening(rows, teaching.whitened_dim)
        found |= {f"{part}.mean": mean, f"{part}.matrix": matrix}
        if teaching.prototypes is not None:
            centres = _centres(whiten(rows, mean, matrix), teaching.prototypes, job.recipe.seed)
            found[f"{part}.centres"] = centres
    return {name: tensor.float().contiguous() for name, tensor in found.items()}


def whitening(rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and map [D, dim] onto the directions in which rows [n, D] differ most, each with the same spread."""
    values = rows.double()
    mean = values.mean(dim=0)
    variances, axes = torch.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    variances, axes = variances.flip(0)[:dim].clamp(min=0), axes.flip(1)[:, :dim]
    # An eigenvector's sign is the library's choice: the largest entry is made positive.
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    floor = _DAMPING * variances[0].clamp(min=1e-12)
    return mean.float(), (axes / (variances + floor).sqrt()).float()


def whiten(rows: Tensor, mean: Tensor, matrix: Tensor, *, unit: bool = True) -> Tensor:
    """Whitened rows [n, dim], of length one or as long as they are, in fp32."""
    whitened = (rows.float() - mean) @ matrix
    return normalize(whitened, dim=-1) if unit else whitened


def _centres(rows: Tensor, count: int, seed: int) -> Tensor:
    from dinomill.vectors.index import InMemory
    from dinomill.vectors.kmeans import kmeans

    found = kmeans(InMemory(rows.cpu().numpy()), np.arange(len(rows)), count, seed=seed)
    if len(found) < count:
        raise InputError(
            "There are too few features for so many prototypes.",
            found=f"{len(rows)} features, distillation.clusters.prototypes: {count}",
            action=f"lower it to {len(rows) // 4} or less, or take more images",
        )
    return torch.from_numpy(found)


def _rows(
    job: TrainingJob, teacher: GivenTeacher, device: torch.device, stopping: Callable[[], bool]
) -> tuple[Tensor, Tensor]:
    """Class features [n, D] and some patches [m, D] of the first crops that the job would see, on the host."""
    classes, patches = [], []
    for seen in _views(job, teacher, device, stopping):
        count = seen.patches.shape[1]
        places = torch.arange(min(_PATCHES, count)) * count // min(_PATCHES, count)
        classes.append(seen.cls.cpu())
        patches.append(seen.patches[:, places.to(seen.patches.device)].flatten(0, 1).cpu())
    return torch.cat(classes), torch.cat(patches)


def _views(
    job: TrainingJob, teacher: GivenTeacher, device: torch.device, stopping: Callable[[], bool]
) -> Iterator[CropFeatures]:
    from dinomill.training.loading import build_loader

    assert job.teaching is not None
    steps = max(job.teaching.images // _BATCH, 1)
    crops = job.recipe.crops.model_copy(update={"local_crops": 0})
    recipe = job.recipe.model_copy(
        update={"steps": steps, "batch_size": _BATCH, "accumulate": 1, "crops": crops, "low_resolution": None}
    )
    alone = job.model_copy(update={"recipe": recipe})
    with (
        progress(f"{job.stage}: the teacher looks", steps * _BATCH) as bar,
        build_loader(alone, job.dataset, World(0, 1, device), start_step=0) as loader,
    ):
        for batch in loader:
            if stopping():
                raise Interrupted(
                    f"The {job.stage} was stopped while its teacher looked at images, before the first step.",
                    action="run the same command again: it begins with them anew",
                )
            assert len(batch.global_crops) == GLOBAL_CROPS * _BATCH
            yield teacher.see(batch)
            bar.advance(_BATCH)
