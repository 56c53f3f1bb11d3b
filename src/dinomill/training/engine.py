"""What is trained: networks, optimiser and schedules of a job, spread over the processes; one step at a time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dinomill.errors import ConfigError, DinomillError
from dinomill.images.batches import Batch
from dinomill.models.hardware import autocast
from dinomill.training import objectives
from dinomill.training.compilation import decide
from dinomill.training.job import TrainingJob
from dinomill.training.look import Seen, Who, gather
from dinomill.training.loss_scaler import LossScaler
from dinomill.training.monitor_images import Samples
from dinomill.training.objectives import Objective
from dinomill.training.optimizer import build_optimizer
from dinomill.training.parallel import World, is_sharded, materialise, parallelise, release, share_weights
from dinomill.training.precision import compute_dtype, set_deterministic
from dinomill.training.schedules import Schedules, ScheduleValues
from dinomill.training.step import accumulated_step

log = logging.getLogger(__name__)

HOST = torch.device("cpu")


class Engine:
    """Networks, optimiser and schedules of a job.

    Args:
        job: What to build. Its seed decides the initial weights, the same in every process.
        world: The processes that train together.

    Raises:
        InputError: When the teacher, or the weights to start from, are missing or do not fit.
    """

    def __init__(self, job: TrainingJob, world: World) -> None:
        recipe = job.recipe
        torch.manual_seed(recipe.seed)
        set_deterministic(job.runtime.deterministic)
        self._job, self._world = job, world
        compiled = decide(job.step.compile, steps=recipe.steps, device=world.device)
        if compiled != job.step.compile:
            job = job.model_copy(update={"step": job.step.model_copy(update={"compile": compiled})})
        self._dtype = compute_dtype(job.step.precision, world.device)
        adapts = job.adaptation is not None
        _refuse_sharded_lora(job)
        sharded = is_sharded(job.runtime.parallel)
        self.module, weights = build_shared(job, world)
        self._wrapped = parallelise(
            self.module,
            world,
            job.runtime.parallel,
            dtype=self._dtype,
            methods=self.module.methods,
            unused=job.adaptation is not None and job.adaptation.frozen > 0,
        )
        if sharded:
            materialise(self.module, weights, world.device)
        self.module.train()
        # After the wrapping, which under FSDP2 replaces the parameters by their shards.
        self.optimizer = build_optimizer(self.module, recipe.optimizer, adaptation=adapts)
        self.schedules = Schedules(
            recipe.schedule, steps=recipe.steps, batch=recipe.batch_size, adaptation=job.adaptation
        )
        if job.step.losses.gram is not None:
            job.step.losses.gram.refuse_late(recipe.steps, f"{job.stage}.step.losses.gram")
        self.rate = 1.0  # factor on the learning rate, below 1 on a detour around numbers that are not finite
        self.scaler = LossScaler(device=world.device) if self._dtype == torch.float16 else None

    @property
    def world(self) -> World:
        """The processes that train together."""
        return self._world

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self._world.is_main

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Train on the micro-batches of a step.

        Args:
            step: Counted from 0.
            batches: As many as the recipe accumulates.

        Returns:
            Scalars on the device: loss terms, ``total``, gradient norms. Reading them waits for the device.
        """
        recipe = self._job.recipe
        return accumulated_step(
            self.module,
            self._wrapped,
            self.optimizer,
            batches,
            self.values(step),
            clip_gradient=recipe.optimizer.clip_gradient,
            generators=[step_generator(recipe.seed, batch.step, self._world.rank) for batch in batches],
            scaler=self.scaler,
        )

    def values(self, step: int) -> ScheduleValues:
        """What the schedules say of a step, counted from 0."""
        values = self.schedules.at(step)
        if self.rate == 1:
            return values
        rates = {name: self.rate * getattr(values, name) for name in ("learning_rate", "last_layer_learning_rate")}
        return replace(values, **rates)

    def parts(self) -> dict[str, nn.Module]:
        """What is trained, and what is kept of it, by names for people."""
        module, several = self.module, len(self._job.models) > 1
        return {
            (f"{name}, the {who}'s {part}" if several else f"the {who}'s {part}"): network
            for name in module.students
            for who, owner in (("student", module.student(name)), ("average", module.average(name)))
            for part, network in owner.parts().items()
        }

    def state(self) -> dict[str, Any]:
        """Small plain values that a checkpoint keeps besides networks and optimiser."""
        return {} if self.scaler is None else {"scaler": self.scaler.state()}

    @torch.no_grad()
    def look(self, samples: Samples, who: Who = "average", *, dense: int = 0) -> Seen:
        """What a network (of the first student) makes of a set of images, on the host; every process must call it.

        Args:
            samples: The set.
            who: The average, which is what is kept; the student; or the teacher.
            dense: Of so many images patches are kept, in the main process.
        """
        name, device = next(iter(self._job.models)), self._world.device
        with autocast(device, self._dtype):
            parts = [
                seen._replace(patches=seen.patches[: 0 if number else dense].clone())
                for number, batch in enumerate(samples.batches(device))
                for seen in [self.module.look(name, batch, who)]
            ]
        release(self.module)
        return gather(parts, samples, self._world, dense=dense)


def build_shared(job: TrainingJob, world: World) -> tuple[Objective, Objective | None]:
    """A job's networks in every process: drawn by the main one, from the seed, whose weights the others take over.

    Returns:
        The module, on the process's device; or, where it is to be sharded, on the meta device, with the whole one on
        the host beside it in the main process (see ``materialise``).

    Raises:
        DinomillError: In every process, what the main one came upon.
    """
    sharded = is_sharded(job.runtime.parallel)
    module: Objective | None = None
    problem: DinomillError | None = None
    if world.is_main:
        try:
            module = build_module(job, torch.device("cpu") if sharded else world.device)
        except DinomillError as error:
            problem = error
    problem = world.from_main(problem)
    if problem is not None:
        raise problem
    if world.is_main and not sharded:
        assert module is not None
        shared = module
    else:
        shared = build_module(job, torch.device("meta"))
    if not sharded and world.size > 1:
        if not world.is_main:
            shared = shared.to_empty(device=world.device)
        share_weights(shared)
    return shared, module if sharded else None


def build_module(job: TrainingJob, device: torch.device = HOST) -> Objective:
    """The networks of a job, freshly initialised or from the weights that it names; see ``objectives.build``."""
    return objectives.build(job, device)


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """Random numbers of a step, a pure function of seed, step and process: there is no state to restore."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def _refuse_sharded_lora(job: TrainingJob) -> None:
    if is_sharded(job.runtime.parallel) and job.adaptation is not None and job.adaptation.lora is not None:
        raise ConfigError(
            "Low-rank additions are not trained sharded.",
            found=f"{job.stage}.adaptation.lora, with runtime.parallel.kind {job.runtime.parallel.kind}",
            action="set runtime.parallel.kind to ddp: what is optimised is small",
        )
