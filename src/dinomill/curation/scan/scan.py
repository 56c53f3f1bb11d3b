"""Look at every file once: decode it, hash it, measure it; or write down why it cannot be used.

<folder>/files.parquet     a row a file, sorted by group, source and path
<folder>/signatures.npy    int8 [rows, 256]
<folder>/quarantine.csv    path, reason and detail of every file that is left out
<work>/scan/<hash>/        shards of the two, and done markers
<work>/content/<hash>/     what content filters found, where one is on
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.content.content import CONTENT_SCHEMA, asked, examine
from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.handles import ScanHandle
from dinomill.curation.scan import signatures
from dinomill.curation.scan.preflight import EMPTY_TILE, PreflightConfig, Rejected, look_at
from dinomill.errors import InputError
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, run_tasks
from dinomill.images.decode_error import DecodeError
from dinomill.images.listing import FAULTS, TILE, Item, list_items, read_item, tile_columns
from dinomill.images.tiles import TileConfig
from dinomill.storage.arrays import write_rows
from dinomill.storage.atomic import atomic_file, fresh_folder, write_parquet
from dinomill.storage.hashing import hash_bytes, hash_file, hash_json

POOL, LABELLED, SEEDS = "pool", "labelled", "seeds:"

FILES_SCHEMA = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),  # pool, labelled, seeds:<name>
        pa.field(
            "candidate", pa.bool_(), nullable=False
        ),  # may become part of the dataset: the pool, and sets taken whole
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),  # of the payload in the source's tar; -1: a file of its own
        pa.field("place", pa.string(), nullable=False),  # where it is read from, when not source/path
        pa.field("reason", pa.string()),  # why it is quarantined; null: it is usable
        pa.field("detail", pa.string()),
        pa.field("tile_of", pa.string()),  # path of the picture that it is cut from; null: no tile
        pa.field("tile_x", pa.int32()),  # of its left side in that picture, pixels
        pa.field("tile_y", pa.int32()),  # of its top
        pa.field("tile_side", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("pixels", pa.string()),  # hash of what is seen: equal for copies that differ in metadata only
        pa.field("bytes", pa.int64()),
        pa.field("format", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("frames", pa.int32()),
        pa.field("channels", pa.int32()),  # 1 or 3
        pa.field("phash", pa.uint64()),
        pa.field("brightness", pa.float32()),
        pa.field("contrast", pa.float32()),
        pa.field("sharpness", pa.float32()),
        pa.field("entropy", pa.float32()),
        pa.field("mean", pa.list_(pa.float64())),  # of each channel, in [0, 1]
        pa.field("square", pa.list_(pa.float64())),  # mean of the squares
        *CONTENT_SCHEMA,
    ]
)
# What a scan task does not know.
_LATER = frozenset({"group", "candidate", *CONTENT_SCHEMA.names})


_NO_FILTERS = FilterConfig()


class ScanConfig(Config):
    """How files are looked at."""

    preflight: PreflightConfig = PreflightConfig()
    files_per_task: int = Field(default=512, ge=1, description="files that one task looks at")
    max_bad_fraction: float = Field(
        default=0.5, ge=0, le=1, description="stop when more than this share of the pool cannot be used"
    )


class ScanTask(Task):
    """Some items of one source."""

    source: str
    items: tuple[Item, ...]
    preflight: PreflightConfig
    folder: Path


class ScanShard(TaskResult):
    """A finished task: a Parquet table without its group, and the signatures beside it."""

    @property
    def table(self) -> Path:
        """The rows."""
        return self.outputs[0]

    @property
    def signatures(self) -> Path:
        """int8 [rows, 256]."""
        return self.outputs[1]


def scan(
    groups: dict[str, list[str]],
    config: ScanConfig,
    filters: FilterConfig = _NO_FILTERS,
    *,
    whole: Collection[str] = (),
    tiles: Mapping[str, TileConfig] = MappingProxyType({}),
    folder: Path,
    work: Path,
    execution: ExecutionConfig,
) -> ScanHandle:
    """Scan every source of every group.

    Args:
        groups: Sources by group: ``pool``, ``labelled``, ``seeds:<name>``.
        config: How to look.
        filters: What is asked of the pictures' content.
        whole: Groups beside the pool whose images go into the dataset too: ``seeds:<name>``.
        tiles: How the images of some sources are cut.
        folder: Where the result goes.
        work: Where unfinished work is kept.
        execution: Where tasks run.

    Raises:
        InputError: When a source is missing or empty, or too much of the pool cannot be used.
        MachineError: When a network that a filter needs is not installed.
    """
    content = asked(filters)  # what is missing is said before hours of work, not after them
    room = work / "scan" / config.preflight.content_hash()[:16]
    tasks, of_group = [], []
    for group, sources in groups.items():
        found = [task for source in sorted(sources) for task in _tasks(source, tiles.get(source), config, room)]
        if not found:
            raise _empty(group, sources)
        tasks += found
        of_group += [group] * len(found)
    shards = run_tasks(scan_shard, tasks, ScanShard, done=room / "done", config=execution, name="curation: scan")
    tables = [
        _with_group(pq.read_table(shard.table), group, candidate=group == POOL or group in whole)
        for shard, group in zip(shards, of_group, strict=True)
    ]
    files = pa.concat_tables(tables)
    fresh_folder(folder)
    _write_quarantine(folder / "quarantine.csv", files)
    reasons, counts = _reasons(files), dict(Counter(files["group"].to_pylist()))
    _refuse_a_broken_pool(reasons, counts[POOL], config, folder / "quarantine.csv")
    seen = examine(files, filters, work=work, execution=execution)
    files = pa.table([*files.columns, *seen.columns], schema=FILES_SCHEMA)
    write_parquet(folder / "files.parquet", files)
    _write_signatures(folder / "signatures.npy", shards, len(files))
    return ScanHandle(
        folder=folder,
        config_hash=hash_json([config.content_hash(), content, sorted(whole)]),
        files=folder / "files.parquet",
        files_sha256=hash_file(folder / "files.parquet"),
        signatures=folder / "signatures.npy",
        quarantine=folder / "quarantine.csv",
        groups=counts,
        quarantined=reasons,
        sources=tuple(
            source for group, sources in groups.items() if group == POOL or group in whole for source in sources
        ),
    )


def scan_shard(task: ScanTask) -> ScanShard:
    """Look at the items of one task and write what was found."""
    import cv2

    cv2.setNumThreads(0)
    name = hash_bytes(task.model_dump_json().encode())[:16]
    rows, marks = [], np.zeros((len(task.items), signatures.SIGNATURE_LENGTH), dtype=np.int8)
    for index, item in enumerate(task.items):
        row, marks[index] = _row(task, item)
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=_task_schema())
    outputs = (task.folder / f"{name}.parquet", task.folder / f"{name}.npy")
    write_parquet(outputs[0], table)
    with atomic_file(outputs[1]) as temporary, temporary.open("wb") as file:
        np.save(file, marks)
    return ScanShard(outputs=outputs)


def _row(task: ScanTask, item: Item) -> tuple[dict[str, Any], Any]:
    """The row of one item and its signature."""
    row: dict[str, Any] = {"source": task.source, "path": item.path, "start": item.offset, "place": item.place}
    row |= tile_columns(item)
    nothing = np.zeros(signatures.SIGNATURE_LENGTH, dtype=np.int8)
    if item.fault:
        return row | {"reason": item.fault, "detail": item.detail or FAULTS[item.fault]}, nothing
    try:
        data = read_item(task.source, item)
    except DecodeError as error:  # of a tile: its picture is damaged there
        return row | {"reason": str(error.reason), "detail": error.detail}, nothing
    except OSError as error:
        return row | {"reason": "unreadable", "detail": error.strerror or str(error)}, nothing
    row |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    try:
        seen = look_at(data, task.preflight, tile=item.offset == TILE)
    except Rejected as rejected:
        return row | {"reason": rejected.reason, "detail": rejected.detail}, nothing
    return row | seen.columns, seen.signature


def _tasks(source: str, tiles: TileConfig | None, config: ScanConfig, room: Path) -> Iterator[ScanTask]:
    items = list_items(source, tiles)
    for start in range(0, len(items), config.files_per_task):
        some = tuple(items[start : start + config.files_per_task])
        yield ScanTask(units=len(some), source=source, items=some, preflight=config.preflight, folder=room / "shards")


def _task_schema() -> pa.Schema:
    return pa.schema([field for field in FILES_SCHEMA if field.name not in _LATER])


def _with_group(table: pa.Table, group: str, *, candidate: bool) -> pa.Table:
    count = len(table)
    columns = [pa.array([group] * count), pa.array([candidate] * count), *table.columns]
    return pa.table(columns, schema=pa.schema([field for field in FILES_SCHEMA if field not in CONTENT_SCHEMA]))


def _write_signatures(path: Path, shards: list[ScanShard], rows: int) -> None:
    with atomic_file(path) as temporary:
        parts = (np.load(shard.signatures) for shard in shards)
        write_rows(temporary, parts, shape=(rows, signatures.SIGNATURE_LENGTH), dtype=np.int8)


def _write_quarantine(path: Path, files: pa.Table) -> None:
    import pyarrow.compute as pc

    bad = files.filter(pc.is_valid(files["reason"])).select(["group", "source", "path", "reason", "detail"])
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(bad.column_names)
        writer.writerows(zip(*(column.to_pylist() for column in bad.columns), strict=True))


def _reasons(files: pa.Table) -> dict[str, int]:
    """What is wrong with files of the pool; nothing is with a tile that shows nothing."""
    pairs = zip(files["group"].to_pylist(), files["reason"].to_pylist(), strict=True)
    bad = (reason for group, reason in pairs if group == POOL and reason and reason != EMPTY_TILE)
    return dict(sorted(Counter(bad).items()))


def _refuse_a_broken_pool(reasons: dict[str, int], files: int, config: ScanConfig, quarantine: Path) -> None:
    bad = sum(reasons.values())
    if bad <= config.max_bad_fraction * files and bad < files:
        return
    found = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    raise InputError(
        f"{bad:,} of the {files:,} files of the pool cannot be used.",
        found=found,
        expected=f"at most {config.max_bad_fraction:.0%} (curation.scan.max_bad_fraction)",
        action=f"see {quarantine}: each file is there with its reason; mend the pool or raise the limit",
    )


def _empty(group: str, sources: list[str]) -> InputError:
    return InputError(
        f"There is no file in the sources of {group.removesuffix(':')}.",
        found=", ".join(sources) or "no source at all",
        expected="folders, archives, manifests or s3:// prefixes with image files in them",
        action="correct `pool`, `seeds` or `labelled` in globals.yml, or run `dinomill sample`",
    )
