"""What benchmarks of whole trainings share: the sample's recipe with changes, made-up datasets, the curve of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from PIL import Image

from dinomill.arrays import Pixels
from dinomill.errors import DinomillError, Interrupted
from dinomill.handles import DatasetHandle
from dinomill.images.batches import Batch
from dinomill.images.decode import decode_image
from dinomill.images.manifest import MANIFEST_SCHEMA, read_manifest
from dinomill.images.shards import ShardWriter
from dinomill.images.tiles import read_tile
from dinomill.pretraining.config import PretrainingConfig
from dinomill.pretraining.pretrain import pretraining_job
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_file
from dinomill.training.engine import Engine
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World
from dinomill.training.trainer import train

ROOT = Path(__file__).parents[1]
HERE = World(0, 1, torch.device("cpu"))
# A recipe for seconds, for --smoke: what it trains on are the made-up images.
TINY: dict[str, Any] = {
    "steps": 20,
    "batch_size": 8,
    "model": {"image_size": 16, "embed_dim": 32, "depth": 1},
    "step": {"head": {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 64}},
    "crops": {"global_size": 16, "local_size": 8, "local_crops": 2},
    "runtime": {"log_every": 5, "checkpoint_every": 1000, "monitor": {"every": 8, "images": 32, "copies": 16}},
}


class EnoughError(Exception):
    """A training that has gone as far as is wanted of it."""


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second over the first."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def sample_job(
    dataset: DatasetHandle, labelled: Path | None, work: Path, *changes: Mapping[str, Any], environment: str = "base"
) -> TrainingJob:
    """The job of an environment's pretraining, the base's by default, with changes one over the other."""
    text = (ROOT / "conf" / "base" / "pretraining" / "parameters.yml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)["pretraining"]
    if environment != "base":
        text = (ROOT / "conf" / environment / "pretraining" / "parameters.yml").read_text(encoding="utf-8")
        values = merged(values, yaml.safe_load(text)["pretraining"])
    for change in changes:
        values = merged(values, change)
    values |= {"work": work, "output": work / "output"}
    return pretraining_job(
        dataset, None if labelled is None else str(labelled), PretrainingConfig.parse(values, where="the benchmark")
    )


def run(job: TrainingJob, *, until: int | None = None) -> str | None:
    """Train in this process; the message of the error that ended it, or None.

    Args:
        job: What to train.
        until: So many steps are enough; None: all.
    """
    try:
        with stopped_after(until):
            train(job, HERE)
    except EnoughError:
        return None
    except Interrupted as stopped:
        # No result of the run: whoever starts the script again goes on from the state that was saved.
        raise SystemExit(f"{stopped}") from None
    except DinomillError as error:
        return str(error).splitlines()[0]
    return None


@contextmanager
def stopped_after(steps: int | None) -> Iterator[None]:
    """Trainings of this process end before the step after so many."""
    original = Engine.step

    def not_after(self: Engine, step: int, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
        if steps is not None and step >= steps:
            raise EnoughError
        return original(self, step, batches)

    Engine.step = not_after  # type: ignore[method-assign]
    try:
        yield
    finally:
        Engine.step = original  # type: ignore[method-assign]


def finished_runs(results: Path) -> list[dict[str, Any]]:
    """The rows of a script's results, of which a kill can cut off the last: that run is made again."""
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True) if results.exists() else []
    if lines and not lines[-1].endswith("\n"):
        results.write_text("".join(lines[:-1]), encoding="utf-8")  # so that the next row begins a line
        lines.pop()
    return [json.loads(line) for line in lines]


def looks(job: TrainingJob) -> list[dict[str, Any]]:
    """The rows of the curve that hold a look of the monitor, in order."""
    path = job.work / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "verdict" in row]


def write_dataset(folder: Path, images: Sequence[Pixels]) -> DatasetHandle:
    """A curated dataset of images ``[H, W, C]`` as they are given, without a curation; they lie in ``pool``, too."""
    rows: list[dict[str, Any]] = []
    pool = folder / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder / "shards") as writer:
        for index, pixels in enumerate(images):
            data = _png(pixels)
            row: dict[str, Any] = dict.fromkeys(MANIFEST_SCHEMA.names)
            row |= {"path": f"{index}.png", "source": str(pool), "fate": "kept", "bytes": len(data)}
            (pool / row["path"]).write_bytes(data)
            row |= {"height": pixels.shape[0], "width": pixels.shape[1], **writer.add(data, "png")._asdict()}
            rows.append(row)
        shards = writer.close()
    manifest = folder / "manifest.parquet"
    write_parquet(manifest, pa.Table.from_pylist(rows, MANIFEST_SCHEMA))
    values = np.concatenate([pixels.reshape(-1, pixels.shape[2]) for pixels in images]) / 255
    handle = DatasetHandle(
        folder=folder,
        made_of="0" * 64,
        manifest=manifest,
        manifest_sha256=hash_file(manifest),
        shards=tuple(shards),
        images=len(images),
        pool_images=len(images),
        fates={"kept": len(images)},
        channels=images[0].shape[2],
        mean=tuple(values.mean(axis=0).tolist()),
        std=tuple(np.maximum(values.std(axis=0), 0.05).tolist()),
        embedder="none",
        sources=(str(pool),),
    )
    handle.save()
    return handle


def some_of(dataset: DatasetHandle, count: int, seed: int, folder: Path, *, kept: bool) -> DatasetHandle:
    """Images of a curation's pool as a dataset of their own, each read from its file again.

    Args:
        dataset: A curated dataset.
        count: So many, drawn by the seed.
        seed: Of the draw.
        folder: For the result; one that is there is taken as it is.
        kept: Draw among those that curation kept; else among all that can be decoded and are not what is scored.
    """
    if (folder / "handle.json").is_file():
        return DatasetHandle.load(folder)
    rows = read_manifest(dataset.manifest, ["path", "source", "tile_of", "fate"]).to_pylist()
    if kept:
        rows = [row for row in rows if row["fate"] == "kept"]
    else:
        rows = [row for row in rows if row["fate"] not in ("quarantined", "evaluation_overlap")]
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return write_dataset(folder, [_original(rows[index], dataset.channels) for index in sorted(chosen)])


def _original(row: Mapping[str, Any], channels: int) -> Pixels:
    tile = row["tile_of"] is not None
    data = read_tile(row["source"], row["path"]) if tile else (Path(row["source"]) / row["path"]).read_bytes()
    return decode_image(data, channels=channels)


def write_labelled(
    folder: Path, images: Sequence[Pixels], labels: Sequence[int], *, splits: Sequence[str] = ("train",)
) -> Path:
    """Labelled images, dealt to the splits in turn: ``<folder>/<split>/<class>/<number>.png``."""
    for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / splits[index % len(splits)] / f"class_{label}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(pixels))
    return folder


def gratings(count: int, side: int, classes: int = 4) -> tuple[list[Pixels], list[int]]:
    """Made-up colour images of waves, and their direction as a class: something that can be learnt."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count)
    y, x = np.mgrid[:side, :side]
    images = []
    for label in labels:
        angle = np.pi * (label + random.uniform(-0.2, 0.2)) / classes
        wave = np.sin(random.uniform(0.6, 1.2) * (np.cos(angle) * x + np.sin(angle) * y) + random.uniform(0, 6))
        tint = random.uniform(60, 120, 3)
        noisy = 128 + wave[..., None] * tint + random.normal(0, 10, (side, side, 3))
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return images, labels.tolist()


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
