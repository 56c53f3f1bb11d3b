"""Features of every readable image, as memory-mapped shards.

<folder>/00000.npy …          float16 [n, dimension], rows of length one; row r is the scan's r-th readable file
<work>/embeddings/<hash>/     the same shards as they are made, and done markers
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.embedding.embedders import EmbedderConfig, Network, embed, find_network
from dinomill.curation.embedding.whiten import fit
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.tables import read_files
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, run_tasks
from dinomill.images.decode import decode_image
from dinomill.images.listing import Item, as_item, read_again
from dinomill.storage.atomic import atomic_file, fresh_folder
from dinomill.storage.hashing import hash_json
from dinomill.vectors.rows import unit

Rows = npt.NDArray[np.int64]


class EmbeddingConfig(Config):
    """How features are made."""

    embedder: EmbedderConfig = EmbedderConfig()
    images_per_task: int = Field(default=1024, ge=1, description="images that one task embeds: one shard")
    whiten: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="spread the features evenly (see whiten.py), with this damping: 0.01 for pools of many kinds of "
        "images and seeds of many kinds; null leaves them as the network gives them",
    )


class EmbedTask(Task):
    """Some images, and the network."""

    images: tuple[tuple[str, Item], ...]  # source and item
    hashes: str = Field(description="of the images' contents: a changed file is another task")
    network: Network
    embedder: EmbedderConfig
    folder: Path


class EmbedShard(TaskResult):
    """One shard: its path is the only output."""

    rows: int
    dimension: int


class Embeddings:
    """Rows of all shards by number, read from memory maps.

    Args:
        shards: ``.npy`` files, float16 [n, D].
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._maps = [np.load(path, mmap_mode="r") for path in shards]
        self._starts = np.cumsum([0, *(len(piece) for piece in self._maps)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def dimension(self) -> int:
        """Numbers a row."""
        return int(self._maps[0].shape[1])

    def take(self, rows: Rows) -> npt.NDArray[np.float32]:
        """The rows asked for, float32 [n, D], of length one."""
        return unit(self.stored(rows))

    def stored(self, rows: Rows) -> npt.NDArray[np.float32]:
        """The rows asked for as they are stored: of length one but for the rounding."""
        found = np.empty((len(rows), self.dimension), dtype=np.float32)
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(shard):
            here = shard == number
            found[here] = self._maps[number][rows[here] - self._starts[number]]
        return found


def embed_files(
    scan: ScanHandle, config: EmbeddingConfig, *, folder: Path, work: Path, execution: ExecutionConfig
) -> EmbeddingsHandle:
    """Embed every readable file of a scan.

    Raises:
        InputError: When the network cannot be found.
    """
    network = find_network(config.embedder)
    settings = hash_json([config.embedder.model_dump(mode="json"), network.weights_hash])
    room = work / "embeddings" / settings[:16]
    tasks = _tasks(scan, config, network, room)
    shards = run_tasks(embed_shard, tasks, EmbedShard, done=room / "done", config=execution, name="curation: embed")
    fresh_folder(folder)
    paths = _write_shards(folder, [shard.outputs[0] for shard in shards], config.whiten)
    return EmbeddingsHandle(
        folder=folder,
        config_hash=hash_json([scan.config_hash, scan.files_sha256, settings, config.whiten]),
        shards=paths,
        rows=sum(shard.rows for shard in shards),
        dimension=shards[0].dimension,
        network=config.embedder.network,
    )


def _write_shards(folder: Path, made: Sequence[Path], damping: float | None) -> tuple[Path, ...]:
    """The finished shards: as they were made, or whitened."""
    everything = Embeddings(made)
    whitening = None if damping is None else fit(everything.stored, len(everything), damping)
    paths = []
    for number, source in enumerate(made):
        path = folder / f"{number:05d}.npy"
        with atomic_file(path) as temporary:
            if whitening is None:
                shutil.copyfile(source, temporary)
            else:
                with temporary.open("wb") as file:
                    np.save(file, whitening(np.load(source).astype(np.float32)).astype(np.float16))
        paths.append(path)
    return tuple(paths)


def embed_shard(task: EmbedTask) -> EmbedShard:
    """Decode and embed the images of one task, with one thread: many tasks run side by side."""
    import cv2
    import torch

    cv2.setNumThreads(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        images = (_read(source, item, task.embedder.image_size) for source, item in task.images)
        features = embed(images, task.network, task.embedder)
    finally:
        torch.set_num_threads(threads)
    path = task.folder / f"{task.content_hash()[:16]}.npy"
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, features.astype(np.float16))
    return EmbedShard(outputs=(path,), rows=len(features), dimension=features.shape[1])


def readable(files: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of the scan have an embedding, bool [rows]."""
    return np.asarray(pc.is_null(files["reason"]).to_numpy(zero_copy_only=False), dtype=np.bool_)


def embedding_rows(files: pa.Table) -> Rows:
    """The embedding's row of each row of the scan, -1 where there is none."""
    usable = readable(files)
    return np.where(usable, np.cumsum(usable) - 1, -1).astype(np.int64)


def _read(source: str, item: Item, side: int) -> npt.NDArray[np.uint8]:
    return decode_image(read_again(source, item), min_side=side)


def _tasks(scan: ScanHandle, config: EmbeddingConfig, network: Network, room: Path) -> list[EmbedTask]:
    columns = read_files(scan, ["source", "path", "bytes", "start", "place", "sha256", "reason"])
    columns = columns.filter(pc.is_null(columns["reason"]))
    tasks = []
    for start in range(0, len(columns), config.images_per_task):
        some: list[dict[str, Any]] = columns.slice(start, config.images_per_task).to_pylist()
        images = tuple((row["source"], as_item(row)) for row in some)
        tasks.append(
            EmbedTask(
                units=len(some),
                images=images,
                hashes=hash_json([row["sha256"] for row in some]),
                network=network,
                embedder=config.embedder,
                folder=room / "shards",
            )
        )
    return tasks
