"""A job's loader: which batches this process is given, and what is rendered in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dinomill.handles import DatasetHandle
from dinomill.images.batch_recipe import Anchor, Coarse
from dinomill.images.loader import TrainingLoader
from dinomill.training.job import TrainingJob
from dinomill.training.not_finite import other_seed
from dinomill.training.parallel import World
from dinomill.training.teacher_cache import views_of


def build_loader(
    job: TrainingJob,
    dataset: DatasetHandle | Path,
    world: World,
    *,
    start_step: int,
    order: int = 0,
    lost: Mapping[int, str] | None = None,
) -> TrainingLoader:
    """This process's share of the micro-batches that are left; their images are those of whole batches.

    Args:
        job: Whose training it is.
        dataset: The images.
        world: The processes.
        start_step: Steps done.
        order: 0 is the order of the images that the seed gives, others are others.
        lost: Images that were found unreadable before, row to reason.
    """
    recipe = job.recipe
    loaded = dataset if isinstance(dataset, DatasetHandle) else DatasetHandle.load(dataset)
    return TrainingLoader(
        loaded,
        crops=recipe.crops,
        masking=recipe.masking,
        loader=job.runtime.loader,
        patch_size=job.patch_size,
        batch_size=job.batch_per_process(world.size),
        seed=recipe.seed if order == 0 else other_seed(recipe.seed, order),
        rank=world.rank,
        world=world.size,
        start_step=start_step * recipe.accumulate,
        steps=(recipe.steps - start_step) * recipe.accumulate,
        device=world.device,
        mean=job.mean,
        std=job.std,
        mix=recipe.mix,
        anchor=anchor_crops(job),
        coarse=coarse_crops(job),
        views=views_of(job, loaded.manifest),
        unreadable=lost,
    )


def coarse_crops(job: TrainingJob) -> Coarse | None:
    """The sizes of the first crops, until the batch that is the first with all pixels; None: always the same."""
    low = job.recipe.low_resolution
    if low is None:
        return None
    return Coarse(low.global_size, low.local_size, low.steps(job.recipe.steps) * job.recipe.accumulate)


def anchor_crops(job: TrainingJob) -> Anchor | None:
    """Global crops that are rendered once more: for a given teacher, or for the anchor of Gram anchoring.

    None where neither is there, where the crops themselves do, or where the teacher's features are kept.
    """
    teaching, gram = job.teaching, job.step.losses.gram
    if teaching is not None:
        plain = teaching.size == job.recipe.crops.global_size and job.recipe.low_resolution is None
        return None if plain or teaching.views is not None else Anchor(teaching.size, 0)
    if gram is None or gram.enlarge == 1:
        return None
    return Anchor(job.recipe.crops.global_size * gram.enlarge, gram.start * job.recipe.accumulate)
