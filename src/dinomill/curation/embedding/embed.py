"""Features of every readable image, as memory-mapped shards; an image that was embedded before is not embedded again.

<folder>/00000.npy …          float16 [n, dimension], rows of length one; row r is the scan's r-th readable file
<cache>/embeddings/<hash>/    features by content of the image (storage/kept_rows.py), a folder an embedder
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from dinomill.arrays import Rows
from dinomill.config import Config
from dinomill.curation.embedding.embedders import EmbedderConfig, Network, embed, find_network, identity, squeezed_to
from dinomill.curation.embedding.whiten import Whitening, fit
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.tables import read_files
from dinomill.curation.work_done import TAKEN_OVER, counted, say
from dinomill.errors import StorageError
from dinomill.execution.memory import reuse_memory
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, forget_tasks, run_tasks
from dinomill.images.decode import decode_image
from dinomill.images.listing import Item, as_item, read_unchanged
from dinomill.storage.arrays import write_rows
from dinomill.storage.atomic import atomic_file, fresh_folder
from dinomill.storage.hashing import hash_bytes, hash_json
from dinomill.storage.kept import Keys, as_keys, remove_unused
from dinomill.storage.kept_rows import Damaged, KeptRows, write_rows_kept
from dinomill.vectors.rows import unit

Stored = npt.NDArray[np.float16]

_AT_ONCE = 4_096  # rows copied at once, whatever the shards' sizes
_SHARDS = 256  # at most about so many: each is an open file while it is read
_ATTEMPTS = 3  # to find every image's features after embedding what was missing


class EmbeddingConfig(Config):
    """How features are made."""

    embedder: EmbedderConfig = EmbedderConfig()
    images_per_task: int = Field(default=1024, ge=1, description="images that one task embeds")
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
    value_range: tuple[float, float] | None = None
    hashes: tuple[str, ...] = Field(description="sha256 of the images' contents, by which their features are kept")
    network: Network
    embedder: EmbedderConfig
    folder: Path


class EmbedShard(TaskResult):
    """One file of kept features: the only output."""


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


class _Kept:
    """The kept features of some images, in the images' order."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self.rows = KeptRows(folder)
        self.place = self.rows.find(keys)
        self.dimension = int(self.rows.take(self.place[:1]).shape[1])

    def __len__(self) -> int:
        return len(self.place)

    def stored(self, rows: Rows) -> npt.NDArray[np.float32]:
        """As they are stored, float32 [n, D]."""
        return self.rows.take(self.place[rows]).astype(np.float32)

    def blocks(self, first: int, last: int, whitening: Whitening | None) -> Iterator[Stored]:
        """Rows from ``first`` to ``last``, whitened or as they are."""
        for start in range(first, last, _AT_ONCE):
            some: Stored = self.rows.take(self.place[start : min(start + _AT_ONCE, last)])
            yield some if whitening is None else whitening(some.astype(np.float32)).astype(np.float16)


def embed_files(
    scan: ScanHandle,
    config: EmbeddingConfig,
    *,
    folder: Path,
    work: Path,
    execution: ExecutionConfig,
    cache: Path | None = None,
) -> EmbeddingsHandle:
    """Embed every readable file of a scan that was not embedded before.

    Args:
        scan: The files.
        config: How.
        folder: Where the result goes.
        work: Where unfinished work is kept.
        execution: Where tasks run.
        cache: Where features are kept; None: in ``work``.

    Raises:
        InputError: When the network cannot be found, or an image changed since it was scanned.
    """
    network = find_network(config.embedder)
    settings = identity(network, config.embedder)
    if scan.value_range is not None:  # other pixels
        settings = hash_json([settings, scan.value_range])
    everything = (cache or work / "cache") / "embeddings"
    files = _readable_files(scan)
    keys = as_keys(files["sha256"].to_pylist())
    embedded, taken_over = 0, len(keys)
    for _ in range(_ATTEMPTS):
        missing = np.flatnonzero(KeptRows(everything / settings[:16]).find(keys) < 0)
        taken_over -= len(missing)
        embedded += _embed_some(
            files, keys, missing, config, network, everything / settings[:16], work, execution, scan.value_range
        )
        try:
            kept = _Kept(everything / settings[:16], keys)
            fresh_folder(folder)
            whitening = None if config.whiten is None else fit(kept.stored, len(kept), config.whiten)
            paths = _write_shards(folder, kept, config.images_per_task, whitening)
            break
        except Damaged:  # it says so itself
            continue
    else:
        raise StorageError(
            f"Features that were just written cannot be read back from {everything}.",
            action="check that disk, or remove the folder and run the same command again",
        )
    kept.rows.tidy(kept.place)
    remove_unused(everything)
    say("embed", embedded, len(keys), taken_over)
    made_of = hash_json([scan.made_of, scan.files_sha256, settings, config.whiten])
    return EmbeddingsHandle(
        folder=folder,
        made_of=made_of,
        shards=paths,
        rows=len(kept),
        dimension=kept.dimension,
        network=config.embedder.network,
        image_size=squeezed_to(network, config.embedder),
        whitened=whitening is not None,
        embedder=hash_json([settings, None if whitening is None else hash_bytes(whitening.matrix.tobytes())]),
        work=counted(work, "embeddings", made_of, {"embedded": embedded, TAKEN_OVER: taken_over}),
    )


def _embed_some(
    files: pa.Table,
    keys: Keys,
    missing: Rows,
    config: EmbeddingConfig,
    network: Network,
    kept: Path,
    work: Path,
    execution: ExecutionConfig,
    value_range: tuple[float, float] | None,
) -> int:
    """Embed what has no features yet; of files with the same bytes, one; how many images that were."""
    _, first = np.unique(keys[missing], return_index=True)
    missing = missing[np.sort(first)]
    tasks = [
        _task(files.take(pa.array(missing[start : start + config.images_per_task])), config, network, kept, value_range)
        for start in range(0, len(missing), config.images_per_task)
    ]
    done = work / "embeddings" / kept.name / "done"
    run_tasks(embed_shard, tasks, EmbedShard, done=done, config=execution, name="curation: embed")
    forget_tasks(tasks, done=done)  # what they made is found by its keys
    return len(missing)


def _task(
    some: pa.Table,
    config: EmbeddingConfig,
    network: Network,
    kept: Path,
    value_range: tuple[float, float] | None,
) -> EmbedTask:
    rows = some.to_pylist()
    return EmbedTask(
        units=len(rows),
        images=tuple((row["source"], as_item(row)) for row in rows),
        hashes=tuple(row["sha256"] for row in rows),
        network=network,
        embedder=config.embedder,
        value_range=value_range,
        folder=kept,
    )


def _write_shards(folder: Path, kept: _Kept, rows: int, whitening: Whitening | None) -> tuple[Path, ...]:
    """The features in the order of the files, ``rows`` a shard, or more when those would be too many shards."""
    size = rows * -(-len(kept) // (rows * _SHARDS))
    paths = []
    for number, start in enumerate(range(0, len(kept), size)):
        last = min(start + size, len(kept))
        path = folder / f"{number:05d}.npy"
        with atomic_file(path) as temporary:
            blocks = kept.blocks(start, last, whitening)
            write_rows(temporary, blocks, shape=(last - start, kept.dimension), dtype=np.float16)
        paths.append(path)
    return tuple(paths)


def embed_shard(task: EmbedTask) -> EmbedShard:
    """Decode and embed the images of one task, with one thread: many tasks run side by side."""
    import cv2
    import torch

    cv2.setNumThreads(0)
    reuse_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted = zip(task.images, task.hashes, strict=True)
        side = task.embedder.image_size
        images = (_read(source, item, sha256, side, task.value_range) for (source, item), sha256 in wanted)
        features = embed(images, task.network, task.embedder)
    finally:
        torch.set_num_threads(threads)
    name = hash_json(task.hashes)[:16]
    path = write_rows_kept(task.folder, as_keys(task.hashes), features.astype(np.float16), name)
    return EmbedShard(outputs=(path,))


def readable(files: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of the scan have an embedding, bool [rows]."""
    return np.asarray(pc.is_null(files["reason"]).to_numpy(zero_copy_only=False), dtype=np.bool_)


def embedding_rows(files: pa.Table) -> Rows:
    """The embedding's row of each row of the scan, -1 where there is none."""
    usable = readable(files)
    return np.where(usable, np.cumsum(usable) - 1, -1).astype(np.int64)


def _read(
    source: str, item: Item, sha256: str, side: int, value_range: tuple[float, float] | None
) -> npt.NDArray[np.uint8]:
    return decode_image(read_unchanged(source, item, sha256), min_side=side, value_range=value_range)


def _readable_files(scan: ScanHandle) -> pa.Table:
    columns = read_files(scan, ["source", "path", "bytes", "start", "place", "sha256", "reason"])
    return columns.filter(pc.is_null(columns["reason"]))
