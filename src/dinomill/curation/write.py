"""Write the curated dataset: the images that were kept, in shards, and a manifest of all.

Images are written byte for byte, but for those whose faces are blurred: these are decoded, blurred and stored anew, and
the manifest says so; its sha256 stays the original's. Tiles of large images are stored as PNG. No original is ever
changed.

<folder>/manifest.parquet             a row a file of the pool, kept or not; images.manifest.MANIFEST_SCHEMA
<folder>/shards/images-00000.tar …    the kept images by sha256: any shard is a fair draw of the whole
<work>/shards/<hash>/                 the same shards as they are made, and done markers
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.content.faces import Box, as_boxes, blur_faces, encode
from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.scan.tables import read_files
from dinomill.errors import InputError
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, run_tasks
from dinomill.handles import DatasetHandle
from dinomill.images.decode import decode_image
from dinomill.images.listing import TILE, Item, as_item, read_again
from dinomill.images.manifest import MANIFEST_SCHEMA, Fate
from dinomill.images.shards import ShardWriter
from dinomill.images.tiles import compressed
from dinomill.storage.atomic import fresh_folder, storage_errors, write_parquet
from dinomill.storage.hashing import hash_bytes, hash_file, hash_json

_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}
_FEW_COLOURED = 0.05


_NO_FILTERS = FilterConfig()


class WriteConfig(Config):
    """How the curated images are laid out."""

    images_per_shard: int = Field(default=10_000, ge=1, description="a shard is closed when it holds this many images")
    megabytes_per_shard: int = Field(default=256, ge=1, description="… or before it would hold more than this")
    channels: Literal["auto", 1, 3] = Field(
        default="auto", description="1: grey, 3: colour; auto: 1 when at most a twentieth of the kept images has colour"
    )


class WriteTask(Task):
    """The images of one shard, in order."""

    images: tuple[tuple[str, Item], ...]  # source and item
    hashes: tuple[str, ...]  # their sha256
    formats: tuple[str, ...]
    faces: tuple[tuple[Box, ...], ...]  # to blur, of each
    margin: float
    folder: Path


class WrittenShard(TaskResult):
    """A shard: its path is the only output."""

    offsets: tuple[int, ...]
    lengths: tuple[int, ...]


def write_dataset(
    scan: ScanHandle,
    embeddings: EmbeddingsHandle,
    selection: SelectionHandle,
    config: WriteConfig,
    filters: FilterConfig = _NO_FILTERS,
    *,
    folder: Path,
    work: Path,
    execution: ExecutionConfig,
) -> DatasetHandle:
    """Write shards and manifest, and describe them."""
    files = read_files(scan)
    chosen = pq.read_table(selection.selection)
    order = _shard_order(files, chosen)
    room = work / "shards" / selection.config_hash[:16]
    kept = files.take(pa.array(order))
    boxes = _faces_to_blur(kept, filters)
    tasks = _tasks(kept, boxes, config, filters, room / "shards")
    written = run_tasks(write_shard, tasks, WrittenShard, done=room / "done", config=execution, name="curation: write")
    fresh_folder(folder)
    shards = tuple(
        _place(shard.outputs[0], folder / "shards" / f"images-{number:05d}.tar") for number, shard in enumerate(written)
    )
    manifest = _manifest(files, chosen, order, written, [bool(some) for some in boxes])
    write_parquet(folder / "manifest.parquet", manifest)
    channels, mean, std = channel_statistics(kept, config.channels)
    return DatasetHandle(
        folder=folder,
        config_hash=hash_json([selection.config_hash, config.content_hash(), filters.content_hash()]),
        manifest=folder / "manifest.parquet",
        manifest_sha256=hash_file(folder / "manifest.parquet"),
        shards=shards,
        images=len(order),
        pool_images=len(chosen),
        fates=selection.fates,
        channels=channels,
        mean=mean,
        std=std,
        embedder=embeddings.network,
        sources=scan.sources,
    )


def write_shard(task: WriteTask) -> WrittenShard:
    """Copy the images of one task into a tar.

    Tiles are read in the order in which they lie in their pictures, so that each piece of a picture is decoded once a
    shard and not once a tile; they wait on disk for their turn.
    """
    prefix = f"part-{task.content_hash()[:16]}"
    offsets, lengths = [], []
    tiles = sorted((task.images[number], number) for number in range(len(task.images)) if _is_tile(task, number))
    task.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryFile(dir=task.folder) as waiting,
        ShardWriter(task.folder, prefix=prefix, max_bytes=1 << 62, max_images=1 << 62) as writer,
    ):
        ahead = {}
        for _, number in tiles:
            data, extension = _to_store(task, number)
            ahead[number] = (waiting.tell(), len(data), extension)
            waiting.write(data)
        for number in range(len(task.images)):
            if number in ahead:
                start, length, extension = ahead[number]
                waiting.seek(start)
                data = waiting.read(length)
            else:
                data, extension = _to_store(task, number)
            place = writer.add(data, extension)
            offsets.append(place.offset)
            lengths.append(place.length)
    return WrittenShard(outputs=tuple(writer.shards), offsets=tuple(offsets), lengths=tuple(lengths))


def _is_tile(task: WriteTask, number: int) -> bool:
    return task.images[number][1].offset == TILE


def _to_store(task: WriteTask, number: int) -> tuple[bytes, str]:
    """An image as the shard holds it, and its extension."""
    source, item = task.images[number]
    kind, boxes = task.formats[number], task.faces[number]
    data = read_again(source, item)
    if hash_bytes(data) != task.hashes[number]:
        raise InputError(
            f"{source}/{item.path} changed while curation ran.",
            found="other bytes than when it was scanned",
            action="keep the pool unchanged while curation runs, and run it again",
        )
    if boxes:
        return encode(blur_faces(decode_image(data), boxes, task.margin), kind)
    return compressed(data) if _is_tile(task, number) else data, _EXTENSIONS.get(kind, kind.lower())


def channel_statistics(
    kept: pa.Table, channels: Literal["auto", 1, 3]
) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Number of channels, and mean and standard deviation of each in [0, 1]; every image counts the same."""
    if channels == "auto":
        coloured = pc.mean(pc.equal(kept["channels"], 3)).as_py()
        channels = 1 if coloured <= _FEW_COLOURED else 3
    if channels == 1:
        mean = _float(kept["brightness"])[:, None]
        square = _float(kept["contrast"])[:, None] ** 2 + mean**2
    else:
        mean, square = (np.asarray(kept[name].to_pylist(), dtype=np.float64) for name in ("mean", "square"))
    middle = mean.mean(axis=0)
    spread = np.sqrt(np.maximum(square.mean(axis=0) - middle**2, 1e-8))
    return int(channels), tuple(np.round(middle, 6).tolist()), tuple(np.round(spread, 6).tolist())


def _float(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _shard_order(files: pa.Table, chosen: pa.Table) -> npt.NDArray[np.int64]:
    """The kept rows of the scan by sha256."""
    kept = chosen.filter(pc.equal(chosen["fate"], Fate.KEPT.value))["row"].to_numpy()
    hashes = np.asarray(files["sha256"].take(pa.array(kept)).to_pylist())
    return np.asarray(kept[np.lexsort((kept, hashes))], dtype=np.int64)


def _faces_to_blur(kept: pa.Table, filters: FilterConfig) -> list[tuple[Box, ...]]:
    """The faces of each image that the shards must not show."""
    if filters.faces is None or not filters.faces.blur:
        return [()] * len(kept)
    return [as_boxes(row) for row in kept["face_boxes"].to_pylist()]


def _tasks(
    kept: pa.Table, boxes: list[tuple[Box, ...]], config: WriteConfig, filters: FilterConfig, folder: Path
) -> list[WriteTask]:
    """One task a shard; where one ends depends on the images alone."""
    rows = kept.select(["source", "path", "bytes", "start", "place", "sha256", "format"]).to_pylist()
    tasks: list[WriteTask] = []
    first, size = 0, 0
    for number in range(1, len(rows) + 1):
        size += rows[number - 1]["bytes"]
        full = number - first >= config.images_per_shard
        if number < len(rows) and not full and size + rows[number]["bytes"] <= config.megabytes_per_shard * 2**20:
            continue
        some = rows[first:number]
        tasks.append(
            WriteTask(
                units=len(some),
                images=tuple((one["source"], as_item(one)) for one in some),
                hashes=tuple(one["sha256"] for one in some),
                formats=tuple(one["format"] for one in some),
                faces=tuple(boxes[first:number]),
                margin=filters.faces.margin if filters.faces else 0.0,
                folder=folder,
            )
        )
        first, size = number, 0
    return tasks


def _place(made: Path, final: Path) -> Path:
    """Put a finished shard where DVC looks for it; a hard link where the file system has them: no second copy."""
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        final.unlink(missing_ok=True)
        try:
            os.link(made, final)
        except OSError:
            temporary = final.with_name(f".{final.name}.tmp")
            shutil.copyfile(made, temporary)
            temporary.replace(final)
    return final


def _manifest(
    files: pa.Table,
    chosen: pa.Table,
    order: npt.NDArray[np.int64],
    written: list[WrittenShard],
    blurred: list[bool],
) -> pa.Table:
    """All files of the pool with their fate, in the scan's order."""
    rows = chosen["row"].to_numpy()
    columns: dict[str, Any] = {
        name: files[name].take(pa.array(rows)) for name in MANIFEST_SCHEMA.names if name in files.column_names
    }
    for name in ("fate", "reason", "detail", "seed_similarity", "embedding_row", "cluster"):
        columns[name] = chosen[name]
    for name in ("duplicate_of", "seed"):
        columns[name] = files["path"].take(chosen[name])
    columns |= _locations(len(files), rows, order, written, blurred)
    columns["label"] = pa.nulls(len(rows), pa.string())
    return pa.table([columns[name] for name in MANIFEST_SCHEMA.names], schema=MANIFEST_SCHEMA)


def _locations(
    count: int,
    rows: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    written: list[WrittenShard],
    blurred: list[bool],
) -> dict[str, pa.Array]:
    """Shard, offset and length of each row, and whether it was blurred; null for what was left out."""
    values: dict[str, list[int] | list[bool]] = {
        "shard": [number for number, shard in enumerate(written) for _ in shard.offsets],
        "offset": [offset for shard in written for offset in shard.offsets],
        "length": [length for shard in written for length in shard.lengths],
        "blurred": blurred,
    }
    located = {}
    for name, found in values.items():
        everywhere = np.full(count, -1, dtype=np.int64)
        everywhere[order] = found
        here = everywhere[rows]
        located[name] = pa.array(here, mask=here < 0).cast(MANIFEST_SCHEMA.field(name).type)
    return located
