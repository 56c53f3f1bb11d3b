"""The rows of gpu_check.py that run dinomill's own engine: each a function of the device, each a few figures.

In small they are the same code on a tiny network.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import torch
from data_loading import encoded, photographs

from dinomill.handles import DatasetHandle
from dinomill.images.crop_plan import IMAGENET_MEAN, IMAGENET_STD
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.shards import ShardWriter
from dinomill.models import variant
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_file
from dinomill.training import compilation
from dinomill.training.config import ParallelConfig
from dinomill.training.counting import StepCounter
from dinomill.training.engine import Engine
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.parallel import World, world

PAPER = {"model": "small", "batch": 32, "global": 224, "local": 98, "locals": 8, "prototypes": 131_072, "images": 2048}
SMALL = {"model": "nano", "batch": 4, "global": 28, "local": 14, "locals": 2, "prototypes": 64, "images": 48}


class Bench:
    """A dataset of photographs, and jobs that train on it.

    Args:
        folder: For the dataset.
        device: Where the engines run.
        small: Whether in small.
    """

    def __init__(self, folder: Path, device: str, *, small: bool) -> None:
        self.folder, self.device, self.small = folder, torch.device(device), small
        self.shape: dict[str, Any] = SMALL if small else PAPER
        self._dataset: DatasetHandle | None = None

    @property
    def dataset(self) -> DatasetHandle:
        """Made when it is first asked for."""
        if self._dataset is None:
            self._dataset = make_dataset(self.folder / "curated", self.shape["images"], 64 if self.small else 256)
        return self._dataset

    def job(self, *, steps: int = 20, parallel: str = "auto", **step: Any) -> TrainingJob:
        """A job; keywords change keys of `step`."""
        shape = self.shape
        crops = {"global_size": shape["global"], "local_size": shape["local"], "local_crops": shape["locals"]}
        # At the usual 1e-5 an untrained network makes one and the same class token of all images, and the logarithm of
        # the distance between two of them (KoLeo) is that of a rounding error.
        model = variant(shape["model"], image_size=shape["global"], patch_size=14, layerscale=1.0)
        values = {
            "stage": "pretraining",
            "recipe": {"steps": steps, "batch_size": shape["batch"], "crops": crops, "masking": {"min_patches": 1}},
            "models": {"student": model.model_dump()},
            "step": {"head": {"prototypes": shape["prototypes"]}, "compile": False, **step},
            "runtime": {"parallel": {"kind": parallel}, "monitor": {"every": 0}},
            "dataset": self.dataset.folder,
            "dataset_sha256": self.dataset.manifest_sha256,
            "work_root": self.folder / "work",
        }
        return TrainingJob.parse(values, where="gpu_rows.py")

    def batch(self, seed: int, device: torch.device | None = None) -> Any:
        """Noise in the shape of a batch, of another colour in each crop."""
        shape, random = self.shape, torch.Generator().manual_seed(seed)
        crops, patches = 2 * shape["batch"], (shape["global"] // 14) ** 2
        masks = torch.rand(crops, patches, generator=random) < 0.3
        masks[::2] = False

        def crops_of(count: int, side: int) -> torch.Tensor:
            colours = 2 * torch.randn(count, 3, 1, 1, generator=random)
            return colours + torch.randn(count, 3, side, side, generator=random)

        tensors = {
            "global_crops": crops_of(crops, shape["global"]),
            "local_crops": crops_of(shape["locals"] * shape["batch"], shape["local"]),
            "masks": masks,
            "mask_indices": masks.flatten().nonzero()[:, 0],
            "mask_weights": (1 / masks.sum(1, keepdim=True).clamp(min=1)).expand_as(masks)[masks],
        }
        where = device or self.device
        return SimpleNamespace(step=seed, **{name: tensor.to(where) for name, tensor in tensors.items()})

    def engine(self, job: TrainingJob, device: torch.device | None = None) -> Engine:
        """An engine alone."""
        return Engine(job, World(0, 1, device or self.device))

    def now(self) -> float:
        """Seconds, when all that was launched is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def make_dataset(folder: Path, count: int, side: int) -> DatasetHandle:
    """Parts of photographs as JPEGs in a shard."""
    rows: list[dict[str, Any]] = []
    files = [encoded(pixels, "JPEG") for pixels in photographs(min(count, 64), side)]
    with ShardWriter(folder / "shards") as writer:
        for number in range(count):
            place = writer.add(files[number % len(files)], "jpg")
            row: dict[str, Any] = dict.fromkeys(MANIFEST_SCHEMA.names)
            row |= {"path": f"{number}.jpg", "source": "photographs", "fate": "kept", "height": side, "width": side}
            rows.append(row | {"bytes": place.length, **place._asdict()})
        shards = writer.close()
    manifest = folder / "manifest.parquet"
    write_parquet(manifest, pa.Table.from_pylist(rows, MANIFEST_SCHEMA))
    handle = DatasetHandle(
        folder=folder,
        made_of="0" * 64,
        manifest=manifest,
        manifest_sha256=hash_file(manifest),
        shards=tuple(shards),
        images=count,
        pool_images=count,
        fates={"kept": count},
        channels=3,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        embedder="none",
        sources=("photographs",),
    )
    handle.save()
    return handle


def parity(bench: Bench) -> dict[str, Any]:
    """Losses and gradient norms of a step in fp32 and bf16 against fp32 on the host: same weights, same batch."""
    host = torch.device("cpu")
    expected = bench.engine(bench.job(precision="fp32"), host).step(0, [bench.batch(0, host)])
    figures = {}
    for precision in ("fp32", "bf16"):
        actual = bench.engine(bench.job(precision=precision)).step(0, [bench.batch(0)])
        away = {name: abs(float(actual[name]) / float(value) - 1) for name, value in expected.items() if float(value)}
        for kind, norms in (("loss", False), ("norm", True)):
            figures[f"{precision}_{kind}"] = max(d for name, d in away.items() if ("gradient_norm" in name) is norms)
    return figures


def reads(bench: Bench) -> dict[str, Any]:
    """How often the host waits for the device in a step, by CUDA's watch and by the dispatcher's; and the kernels."""
    engine = bench.engine(bench.job())
    batches = [bench.batch(seed) for seed in range(4)]
    for step in (0, 1):
        engine.step(step, [batches[step]])
    with synchronisations(bench.device) as seen:
        engine.step(2, [batches[2]])
    with StepCounter(bench.device.type) as counter:
        engine.step(3, [batches[3]])
    first = str(seen[0].message).splitlines()[0] if seen else None
    return {"waits": len(seen), "reads": counter.reads.total(), "kernels": counter.total, "first": first}


@contextmanager
def synchronisations(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """The warnings of CUDA about each operation that waits."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        kept: list[warnings.WarningMessage] = []
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield kept
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            # PyTorch also says that the watch itself is a prototype.
            kept += [warning for warning in seen if "called a synchronizing" in str(warning.message)]


def compiled(bench: Bench) -> dict[str, Any]:
    """Eager and compiled steps: how far apart, how fast, and what compiling takes."""
    if bench.small:
        compilation._BACKEND = "eager"  # traced; generating code takes a minute
    figures: dict[str, Any] = {}
    batches = [bench.batch(seed) for seed in range(2)]
    losses = {}
    for name in ("eager", "compiled"):
        engine = bench.engine(bench.job(compile=name == "compiled"))
        start = bench.now()
        first = engine.step(0, [batches[0]])
        figures[f"{name}_first_s"] = bench.now() - start
        losses[name] = float(first["total"])
        engine.step(1, [batches[1]])
        count = 1 if bench.small else 8
        start = bench.now()
        for step in range(2, 2 + count):
            engine.step(step, [batches[step % 2]])
        figures[f"{name}_step_s"] = (bench.now() - start) / count
    figures["loss_difference"] = abs(losses["compiled"] / losses["eager"] - 1)
    figures["faster_by"] = figures["eager_step_s"] / figures["compiled_step_s"]
    return figures


def parallel(bench: Bench) -> dict[str, Any]:
    """DDP, FSDP2 and HSDP with one process against none: three steps' losses."""
    losses = {}
    for kind in ("none", "ddp", "fsdp2", "hsdp"):
        with world(ParallelConfig(kind=kind), str(bench.device)) as here:
            engine = Engine(bench.job(parallel=kind, precision="fp32"), here)
            losses[kind] = [float(engine.step(step, [bench.batch(step)])["total"]) for step in range(3)]
        del engine
    return {
        kind: max(abs(a / b - 1) for a, b in zip(losses[kind], losses["none"], strict=True))
        for kind in ("ddp", "fsdp2", "hsdp")
    }


def data(bench: Bench) -> dict[str, Any]:
    """Steps fed by the loader, augmentation and all, against the same steps on a batch that is there already."""
    count = 3 if bench.small else 30
    job = bench.job(steps=count + 2)
    engine, here = bench.engine(job), World(0, 1, bench.device)
    seconds = {}
    with build_loader(job, bench.dataset, here, start_step=0) as loader:
        batches = iter(loader)
        made = [next(batches) for _ in range(2)]
        for step, batch in enumerate(made):
            engine.step(step, [batch])
        start = bench.now()
        for step, batch in enumerate(batches):
            engine.step(step + 2, [batch])
        seconds["fed"] = (bench.now() - start) / count
    start = bench.now()
    for step in range(count):
        engine.step(step + 2, [made[step % 2]])
    seconds["ready"] = (bench.now() - start) / count
    return {
        "fed_step_s": seconds["fed"],
        "ready_step_s": seconds["ready"],
        "waiting": max(1 - seconds["ready"] / seconds["fed"], 0.0),
        "images_per_s": bench.shape["batch"] / seconds["fed"],
    }


ROWS = {"parity": parity, "reads": reads, "compiled": compiled, "parallel": parallel, "data": data}


def run(row: str, device: str, *, small: bool) -> dict[str, Any]:
    """A row's figures."""
    with tempfile.TemporaryDirectory() as folder:
        return ROWS[row](Bench(Path(folder), device, small=small))
