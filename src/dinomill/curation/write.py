"""Write the curated dataset: the images that were kept, in shards, and a manifest of all.

Images are written byte for byte, but for those whose faces are blurred: these are decoded, blurred and stored anew, and
the manifest says so; its sha256 stays the original's. So are those that are larger than ``max_side``: stored smaller.
Tiles of large images are stored as PNG. No original is ever changed.

<folder>/manifest.parquet             a row a file of the pool, kept or not; images.manifest.MANIFEST_SCHEMA
<folder>/metrics.json                 how many files had which fate, for `dvc metrics`
<folder>/shards/images-00000.tar …    the kept images by sha256: any shard is a fair draw of the whole
<work>/shards/<hash>/                 the same shards as they are made, and done markers
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.content.faces import Box, as_boxes
from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.scan.tables import read_files
from dinomill.curation.store import WriteTask, WrittenShard, write_shard
from dinomill.execution.tasks import ExecutionConfig, run_tasks
from dinomill.handles import DatasetHandle
from dinomill.images.listing import as_item
from dinomill.images.manifest import MANIFEST_SCHEMA, Fate
from dinomill.images.reduced import reduced_size
from dinomill.storage.atomic import fresh_folder, storage_errors, write_parquet, write_text
from dinomill.storage.hashing import hash_file, hash_json

METRICS_NAME = "metrics.json"

_FEW_COLOURED = 0.05


_NO_FILTERS = FilterConfig()


class WriteConfig(Config):
    """How the curated images are laid out."""

    images_per_shard: int = Field(default=10_000, ge=1, description="a shard is closed when it holds this many images")
    megabytes_per_shard: int = Field(default=256, ge=1, description="… or before it would hold more than this")
    max_side: int | None = Field(
        default=None,
        ge=64,
        description="pixels of the longer side; a larger image is stored reduced: a JPEG as JPEG, others as PNG; null: "
        "as it is. Two to four times the largest crop loses nothing that a training sees",
    )
    channels: Literal["auto", 1, 3] = Field(
        default="auto", description="1: grey, 3: colour; auto: 1 when at most a twentieth of the kept images has colour"
    )


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
    room = work / "shards" / selection.made_of[:16]
    kept = files.take(pa.array(order))
    boxes = _faces_to_blur(kept, filters)
    tasks = _tasks(kept, boxes, config, filters, scan.value_range, room / "shards")
    written = run_tasks(write_shard, tasks, WrittenShard, done=room / "done", config=execution, name="curation: write")
    fresh_folder(folder)
    shards = tuple(
        _place(shard.outputs[0], folder / "shards" / f"images-{number:05d}.tar") for number, shard in enumerate(written)
    )
    manifest = _manifest(files, chosen, order, written, _changes(kept, boxes, config.max_side))
    write_parquet(folder / "manifest.parquet", manifest)
    write_text(folder / METRICS_NAME, json.dumps(_counts(selection.fates, len(chosen)), indent=2) + "\n")
    channels, mean, std = channel_statistics(kept, config.channels)
    return DatasetHandle(
        folder=folder,
        made_of=hash_json([selection.made_of, config.content_hash(), filters.content_hash()]),
        manifest=folder / "manifest.parquet",
        manifest_sha256=hash_file(folder / "manifest.parquet"),
        shards=shards,
        images=len(order),
        pool_images=len(chosen),
        fates=selection.fates,
        channels=channels,
        mean=mean,
        std=std,
        value_range=scan.value_range,
        embedder=embeddings.network,
        seeds={name: str(found) for name, found in sorted(selection.judged.items())},
        sources=scan.sources,
    )


def _counts(fates: Mapping[str, int], files: int) -> dict[str, float | dict[str, int]]:
    """What `dvc metrics` shows and compares."""
    kept = fates.get(Fate.KEPT.value, 0)
    return {
        "files": {"all": files, **{fate.value: fates.get(fate.value, 0) for fate in Fate}},
        "kept_percent": round(100 * kept / max(files, 1), 2),
    }


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
    kept: pa.Table,
    boxes: list[tuple[Box, ...]],
    config: WriteConfig,
    filters: FilterConfig,
    value_range: tuple[float, float] | None,
    folder: Path,
) -> list[WriteTask]:
    """One task a shard; where one ends depends on the images alone."""
    rows = kept.select(["source", "path", "bytes", "start", "place", "sha256", "format", "width", "height"]).to_pylist()
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
                sides=tuple((one["width"], one["height"]) for one in some),
                max_side=config.max_side,
                margin=filters.faces.margin if filters.faces else 0.0,
                value_range=value_range,
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
    changes: dict[str, list[int]],
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
    columns["duplicate_source"] = files["source"].take(chosen["duplicate_of"])
    columns |= _locations(len(files), rows, order, written, changes)
    columns["label"] = pa.nulls(len(rows), pa.string())
    return pa.table([columns[name] for name in MANIFEST_SCHEMA.names], schema=MANIFEST_SCHEMA)


def _changes(kept: pa.Table, boxes: list[tuple[Box, ...]], max_side: int | None) -> dict[str, list[int]]:
    """What became of the kept images on their way into the shards."""
    sides = list(zip(kept["width"].to_pylist(), kept["height"].to_pylist(), strict=True))
    sizes = [reduced_size(width, height, max_side) for width, height in sides]
    return {
        "blurred": [int(bool(some)) for some in boxes],
        "reduced": [int(size != own) for size, own in zip(sizes, sides, strict=True)],
        "stored_width": [width for width, _ in sizes],
        "stored_height": [height for _, height in sizes],
    }


def _locations(
    count: int,
    rows: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    written: list[WrittenShard],
    changes: dict[str, list[int]],
) -> dict[str, pa.Array]:
    """Shard, offset and length of each row, and how it was changed; null for what was left out."""
    values: dict[str, list[int]] = {
        "shard": [number for number, shard in enumerate(written) for _ in shard.offsets],
        "offset": [offset for shard in written for offset in shard.offsets],
        "length": [length for shard in written for length in shard.lengths],
        **changes,
    }
    located = {}
    for name, found in values.items():
        everywhere = np.full(count, -1, dtype=np.int64)
        everywhere[order] = found
        here = everywhere[rows]
        located[name] = pa.array(here, mask=here < 0).cast(MANIFEST_SCHEMA.field(name).type)
    return located
