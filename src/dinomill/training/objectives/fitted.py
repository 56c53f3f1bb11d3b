"""What is made once of a given teacher's features of the curated images: their spread, and centres of them.

<work>/teacher.safetensors     written once; a run that is continued goes on with the same numbers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dinomill.errors import InputError
from dinomill.storage.atomic import atomic_file
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.job import TrainingJob
from dinomill.training.losses.dino import GLOBAL_CROPS

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    if teaching.objective == "regression":
        return {f"{part}.{name}": (teaching.dim,) for part in PARTS for name in ("mean", "std")}
    assert teaching.whitened_dim is not None and teaching.prototypes is not None
    found: dict[str, tuple[int, ...]] = {}
    for part in PARTS:
        found[f"{part}.mean"] = (teaching.dim,)
        found[f"{part}.matrix"] = (teaching.dim, teaching.whitened_dim)
        found[f"{part}.centres"] = (teaching.prototypes, teaching.whitened_dim)
    return found


def fitted(job: TrainingJob, teacher: GivenTeacher, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a job, read or made; empty ones on the meta device.

    Raises:
        InputError: When the teacher's features are not finite, or too few for so many centres.
    """
    from safetensors.torch import load_file, save_file

    if device.type == "meta":
        return {name: torch.empty(shape, device=device) for name, shape in shapes(job).items()}
    path = job.work / FITTED_NAME
    if not path.is_file():
        # Whether the file was there must not be seen in the students' first weights, which are drawn after this.
        with torch.random.fork_rng(devices=[]):
            made = _fit(job, teacher, device)
        with atomic_file(path) as temporary:
            save_file(made, temporary)
    found = load_file(path)
    # The order of the other processes, who only know the shapes: buffers travel in order.
    return {name: found[name] for name in shapes(job)}


def _fit(job: TrainingJob, teacher: GivenTeacher, device: torch.device) -> dict[str, Tensor]:
    teaching = job.teaching
    assert teaching is not None
    found: dict[str, Tensor] = {}
    for part, rows in zip(PARTS, _rows(job, teacher, device), strict=True):
        if not bool(torch.isfinite(rows).all()):
            raise InputError(
                f"The teacher {job.teacher} gives numbers that are not finite.",
                found=f"{int((~torch.isfinite(rows)).any(dim=1).sum())} of {len(rows)} {part}",
                action="look whether it is whole, and whether its preprocessing fits the images",
            )
        if teaching.objective == "regression":
            variance = rows.double().var(dim=0)
            spread = (variance + _DAMPING * variance.max().clamp(min=1e-12)).sqrt()
            found |= {f"{part}.mean": rows.double().mean(dim=0), f"{part}.std": spread}
            continue
        assert teaching.whitened_dim is not None and teaching.prototypes is not None
        mean, matrix = whitening(rows, teaching.whitened_dim)
        centres = _centres(whiten(rows, mean, matrix), teaching.prototypes, job.recipe.seed)
        found |= {f"{part}.mean": mean, f"{part}.matrix": matrix, f"{part}.centres": centres}
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


def whiten(rows: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Whitened rows [n, dim] of length one, in fp32."""
    return normalize((rows.float() - mean) @ matrix, dim=-1)


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


def _rows(job: TrainingJob, teacher: GivenTeacher, device: torch.device) -> tuple[Tensor, Tensor]:
    """Class features [n, D] and some patches [m, D] of the first crops that the job would see, on the host."""
    classes, patches = [], []
    for seen in _views(job, teacher, device):
        count = seen.patches.shape[1]
        places = torch.arange(min(_PATCHES, count)) * count // min(_PATCHES, count)
        classes.append(seen.cls.cpu())
        patches.append(seen.patches[:, places.to(seen.patches.device)].flatten(0, 1).cpu())
    return torch.cat(classes), torch.cat(patches)


def _views(job: TrainingJob, teacher: GivenTeacher, device: torch.device) -> Iterator[CropFeatures]:
    from dinomill.training.loading import build_loader
    from dinomill.training.parallel import World

    assert job.teaching is not None
    steps = max(job.teaching.images // _BATCH, 1)
    crops = job.recipe.crops.model_copy(update={"local_crops": 0})
    recipe = job.recipe.model_copy(
        update={"steps": steps, "batch_size": _BATCH, "accumulate": 1, "crops": crops, "low_resolution": None}
    )
    alone = job.model_copy(update={"recipe": recipe})
    with build_loader(alone, job.dataset, World(0, 1, device), start_step=0) as loader:
        for batch in loader:
            assert len(batch.global_crops) == GLOBAL_CROPS * _BATCH
            yield teacher.see(batch)
