"""The training loader: batches ahead of time, from threads or processes, the same whatever their number."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import torch

from dinomill.arrays import Bytes
from dinomill.errors import ConfigError
from dinomill.execution.parent import end_with_parent
from dinomill.handles import DatasetHandle
from dinomill.images import render_opencv as crops_opencv
from dinomill.images.batch_recipe import Anchor, BatchRecipe, Coarse
from dinomill.images.batches import Batch, BatchMaker, PackedBatch, unpack
from dinomill.images.channels import may_become
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.kept_views import KeptViews
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.manifest import read_kept
from dinomill.images.masking import MaskingConfig
from dinomill.images.mixture import mixed_sampler
from dinomill.images.sampler import Sampler
from dinomill.images.shards import open_shards
from dinomill.images.slots import Slots, SlotWriter
from dinomill.images.substitutes import Tally
from dinomill.images.transfer import Sent, transfer_to

# Crops and images up to this side are rendered as matrix products on a CPU. Measured on one core, batched over OpenCV:
# 1.5 at 28 to 32 pixels, 1.1 at 48, 0.5 at 64, 0.1 at 224.
_TINY = 48


class TrainingLoader:
    """Yields batches from ``start_step`` on, without end or for a number of steps.

    Args:
        dataset: A curated dataset: its handle or its folder.
        crops: Augmentation.
        masking: Block masks of the global crops.
        loader: Workers and memory.
        patch_size: Of the model, pixels; a mask covers (global_size / patch_size)² patches.
        batch_size: Images a rank takes at a step.
        seed: Of order, crops and masks.
        rank: This process, of ``world``.
        world: Processes that share the stream.
        start_step: First step to yield: a resumed run continues at the exact image.
        steps: How many to yield; None: without end.
        device: Where batches are put.
        mean: Per channel in [0, 1]; None: the dataset's.
        std: Per channel in [0, 1]; None: the dataset's.
        mix: Weights of the dataset's parts (``mixture``); None: every image once an epoch.
        anchor: Size and first step of global crops that are rendered once more, with more pixels; None: of none.
        coarse: Sizes of the crops until a step; None: those of ``crops`` from the beginning.
        views: Global crops are of these, and batches carry what a teacher made of them; None: all crops are drawn.
        unreadable: Images that were found unreadable before, row to reason: ``tally.state()`` of the run that is
            continued.

    Raises:
        InputError: When the dataset is not there.
        ConfigError: When crops and patches do not fit, or a name of the mix means no image.
    """

    def __init__(
        self,
        dataset: DatasetHandle | Path,
        *,
        crops: MultiCropConfig,
        masking: MaskingConfig,
        loader: LoaderConfig | None = None,
        patch_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        steps: int | None = None,
        device: torch.device | str = "cpu",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        mix: Mapping[str, float] | None = None,
        anchor: Anchor | None = None,
        coarse: Coarse | None = None,
        views: KeptViews | None = None,
        unreadable: Mapping[int, str] | None = None,
    ) -> None:
        handle = dataset if isinstance(dataset, DatasetHandle) else DatasetHandle.load(dataset)
        self.config = loader or LoaderConfig()
        self.device = torch.device(device)
        self.start_step = start_step
        self.steps = steps
        self.wait_seconds = 0.0  # spent waiting for data since the start: above 3% of the time, add workers
        images = read_kept(handle.manifest)
        self.images = len(images)
        self.tally = Tally(self.images, self.config.max_unreadable, unreadable)
        # What crops are normalised with is of the networks: grey is repeated for those that take colour.
        given = len(mean) if mean is not None and std is not None and len(mean) == len(std) else handle.channels
        channels = given if may_become(handle.channels, given) else handle.channels  # or refused below
        self.recipe = BatchRecipe(
            crops=crops,
            masking=masking,
            sampler=mixed_sampler(mix, handle.manifest, batch_size, seed, rank, world)
            if mix
            else Sampler(self.images, batch_size, seed, rank, world),
            grid=_grid(crops, patch_size),
            channels=channels,
            stored=handle.channels,
            value_range=handle.value_range,
            mean=_per_channel("mean", mean or handle.mean, channels),
            std=_per_channel("std", std or handle.std, channels),
            anchor=anchor,
            coarse=_coarse(coarse, patch_size),
            views=views,
        )
        batched = self._batched(channels, tiny=max(crops.global_size, images.sizes.mean()) <= _TINY)
        self.on_device = batched and self.device.type != "cpu"
        self._maker = BatchMaker(
            self.recipe,
            images,
            open_shards(handle, self.config),
            batched=batched,
            cache_bytes=self.config.cache_mb * 10**6,
        )
        self._transfer = transfer_to(self.device)
        self._slots = Slots(self._transfer.register)
        self._pool: Executor | None = None

    @property
    def mean(self) -> tuple[float, ...]:
        """What the crops were normalised with."""
        return self.recipe.mean

    @property
    def std(self) -> tuple[float, ...]:
        """What the crops were normalised with."""
        return self.recipe.std

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        workers = self.config.workers or min(os.cpu_count() or 1, 8)
        self._pool, self._slots = self._start(workers), Slots(self._transfer.register)
        waiting: deque[Future[Batch | Packed]] = deque()
        sent: deque[Sent] = deque()
        step, end = self.start_step, None if self.steps is None else self.start_step + self.steps
        try:
            while True:
                while len(waiting) < workers * self.config.prefetch and (end is None or step < end):
                    waiting.append(self._submit(step))
                    step += 1
                if not sent:
                    if not waiting:
                        return
                    started = time.perf_counter()
                    made = waiting.popleft().result()
                    self.wait_seconds += time.perf_counter() - started
                    sent.append(self._send(made))
                # One batch ahead of the step, if its images are there: its copy and crops run beside the step.
                if self.on_device and waiting and waiting[0].done() and waiting[0].exception() is None:
                    sent.append(self._send(waiting.popleft().result()))
                batch = self._transfer.receive(sent.popleft())
                self.tally.add(batch.unreadable, batch.step)
                yield batch
        finally:
            for future in waiting:
                future.cancel()
            self.close()

    def close(self) -> None:
        """Stop the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _batched(self, channels: int, *, tiny: bool) -> bool:
        if self.config.backend != "auto":
            if self.config.backend == "opencv" and not crops_opencv.supports(channels):
                raise ConfigError(
                    f"The opencv backend renders at most 4 channels, the dataset has {channels}.",
                    action="set loader.backend to `auto` or `batched`",
                )
            return self.config.backend == "batched"
        return self.device.type != "cpu" or tiny or not crops_opencv.supports(channels)

    def _start(self, workers: int) -> Executor:
        if self.config.kind == "processes":
            import multiprocessing

            return ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_process,
                initargs=(self._maker, not self.on_device),
            )
        return ThreadPoolExecutor(workers, thread_name_prefix="dinomill-data", initializer=_one_thread_each)

    def _submit(self, step: int) -> Future[Batch | Packed]:
        assert self._pool is not None
        if self.config.kind == "processes":
            slot = self._slots.take()
            future = self._pool.submit(_make_in_process, step, slot)
            return cast("Future[Batch | Packed]", future)
        make = self._make_packed if self.on_device else self._maker.make
        return cast("Future[Batch | Packed]", self._pool.submit(make, step))

    def _make_packed(self, step: int) -> Packed:
        """In a worker thread: memory that the device copies from is filled at once."""
        memory: list[torch.Tensor] = []

        def allocate(size: int) -> Bytes:
            memory.append(self._transfer.allocate(size))
            return cast("Bytes", memory[0].numpy())

        return self._maker.packed(step, allocate, rendered=False), memory[0]

    def _send(self, made: Batch | Packed) -> Sent:
        if isinstance(made, Batch):
            return Sent(made if self.device.type == "cpu" else made.to(self.device), None)
        packed, memory = made
        if isinstance(memory, int):
            memory = self._slots.content(memory)
        return self._transfer.send(memory, partial(unpack, packed))


# A batch in memory of this process, or in a slot (the number of its file).
Packed = tuple[PackedBatch, torch.Tensor | int]

_process: tuple[BatchMaker, bool, SlotWriter] | None = None


def _start_process(maker: BatchMaker, rendered: bool) -> None:
    global _process
    _process = (maker, rendered, SlotWriter())
    torch.set_num_threads(1)
    _one_thread_each()
    end_with_parent()


def _make_in_process(step: int, slot: tuple[int, int]) -> tuple[PackedBatch, int]:
    assert _process is not None
    maker, rendered, writer = _process
    return maker.packed(step, partial(writer.memory, slot), rendered=rendered), slot[1]


def _one_thread_each() -> None:
    """Workers are the parallelism: OpenCV's own threads would only compete with them and with the training step."""
    import cv2

    cv2.setNumThreads(1)


def _grid(crops: MultiCropConfig, patch_size: int) -> int:
    for name, size in (("global_size", crops.global_size), ("local_size", crops.local_size)):
        if size % patch_size and (name == "global_size" or crops.local_crops):
            nearest = max(round(size / patch_size), 1) * patch_size
            raise ConfigError(
                f"crops.{name} is no multiple of the patch size.",
                found=f"{size} pixels with patches of {patch_size}",
                action=f"set it to {nearest}",
            )
    return crops.global_size // patch_size


def _coarse(coarse: Coarse | None, patch_size: int) -> Coarse | None:
    for name in ("global_size", "local_size"):
        if coarse is not None and (size := getattr(coarse, name)) % patch_size:
            raise ConfigError(
                f"low_resolution.{name} is no multiple of the patch size.",
                found=f"{size} pixels with patches of {patch_size}",
                action=f"set it to {max(round(size / patch_size), 1) * patch_size}",
            )
    return coarse


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) != channels:
        raise ConfigError(
            f"{name} needs one number a channel.", found=f"{len(values)} numbers", expected=f"{channels} channels"
        )
    return tuple(values)
