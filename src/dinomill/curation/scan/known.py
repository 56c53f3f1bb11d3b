"""What was seen of files before: a file that did not change is not read again, a known content not decoded again.

<cache>/scan/read/            by place, size and time of a file (or its entity tag): the sha256 of what it held
<cache>/scan/<hash>/          by sha256: what a look at it gave, and its signature
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinomill.curation.scan import signatures
from dinomill.curation.scan.preflight import PreflightConfig, Rejected, look_at
from dinomill.errors import StorageError
from dinomill.execution.memory import reuse_memory
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, forget_tasks, run_tasks
from dinomill.images import made_of
from dinomill.images.decode_error import DecodeError
from dinomill.images.listing import FAULTS, TILE, Item, read_item
from dinomill.storage import s3
from dinomill.storage.hashing import hash_bytes, hash_json
from dinomill.storage.kept import KEY, KeyIndex, Keys, as_hashes, made_by, remove_unused
from dinomill.storage.kept_tables import KEY_FIELD, KeptTables, files, from_arrow, write_table

# What a look at a file's content gives.
LOOK_FIELDS = (
    pa.field("reason", pa.string()),  # why it is quarantined; null: it is usable
    pa.field("detail", pa.string()),
    pa.field("pixels", pa.string()),  # hash of what is seen: equal for copies that differ in metadata only
    pa.field("format", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("mode", pa.string()),
    pa.field("frames", pa.int32()),
    pa.field("channels", pa.int32()),  # 1 or 3
    pa.field("largest", pa.float64()),  # stored value; null: a file of 8 bits
    pa.field("phash", pa.uint64()),
    pa.field("brightness", pa.float32()),
    pa.field("contrast", pa.float32()),
    pa.field("sharpness", pa.float32()),
    pa.field("entropy", pa.float32()),
    pa.field("mean", pa.list_(pa.float64())),  # of each channel, in [0, 1]
    pa.field("square", pa.list_(pa.float64())),  # mean of the squares
)
_SIGNATURE = pa.field("signature", pa.binary(signatures.SIGNATURE_LENGTH), nullable=False)
_LOOKS = pa.schema([KEY_FIELD, *LOOK_FIELDS, _SIGNATURE])
_READ_FIELDS = (pa.field("sha256", pa.binary(KEY), nullable=False), pa.field("bytes", pa.int64()))
_READ = pa.schema([KEY_FIELD, *_READ_FIELDS])
_ATTEMPTS = 3  # to find every file's look after looking at what was missing

_CODE = (  # decides a look
    *made_of.CODE,
    "dinomill.curation.scan.preflight",
    "dinomill.curation.scan.signatures",
    "dinomill.images.looks",
)


class ScanTask(Task):
    """Some items of one source."""

    source: str
    items: tuple[Item, ...]
    preflight: PreflightConfig
    looks: Path  # where looks are kept
    read: Path  # where it is kept what was read


class ScanShard(TaskResult):
    """A finished task: what it read, and what it saw of contents that were not known."""

    decoded: int
    unreadable: tuple[tuple[str, str, str], ...]  # path, reason, detail: not kept, it may be otherwise the next time


class Looked(NamedTuple):
    """What is known of every file, in the order in which they were given."""

    table: pa.Table  # sha256, bytes and LOOK_FIELDS
    signatures: npt.NDArray[np.int8]  # [rows, 448]
    read: int  # files
    decoded: int  # of those; of several with the same bytes, one
    taken_over: int  # files whose content was looked at in an earlier run


class Known:
    """What was seen before, and now.

    Args:
        cache: Where it is kept.
        config: How files are looked at.
    """

    def __init__(self, cache: Path, config: PreflightConfig) -> None:
        self.config, self._cache = config, cache / "scan"
        code = hash_json([config.content_hash(), made_by(_CODE, made_of.LIBRARIES)])
        self.read, self.looks = self._cache / "read", self._cache / code[:16]

    def look(
        self, found: Sequence[tuple[str, list[Item]]], *, per_task: int, done: Path, execution: ExecutionConfig
    ) -> Looked:
        """Everything about every item of some sources: what is not known is read, and decoded if its content is new.

        Raises:
            StorageError: When what was just written cannot be read back.
        """
        keys = _keys_of(found)
        read = decoded = 0
        at_first: KeyIndex | None = None  # the contents that were known before this run
        unreadable: dict[tuple[str, str], tuple[str, str]] = {}
        for _ in range(_ATTEMPTS):
            before, looks = KeptTables(self.read, _READ_FIELDS), KeptTables(self.looks, LOOK_FIELDS)
            place = before.find(keys)
            facts = before.take(place, pa.schema(_READ_FIELDS))
            content = from_arrow(facts["sha256"])  # of what is not known whatever is there
            row = np.where(place >= 0, looks.find(_look_keys(found, content)), -1)
            missing = [bool(one) for one in row < 0]
            tasks = list(self._tasks(found, missing, unreadable, per_task))
            at_first = at_first or looks.index
            marks = looks.fixed(row, _SIGNATURE) if not tasks else None
            if marks is not None:
                before.tidy(place)
                looks.tidy(row)
                remove_unused(self._cache)
                table = _together(found, facts, content, looks, row, unreadable)
                taken_over = (at_first.find(_look_keys(found, content)) >= 0) & (row >= 0)
                return Looked(table, marks.view(np.int8), read, decoded, int(taken_over.sum()))
            shards = run_tasks(scan_shard, tasks, ScanShard, done=done, config=execution, name="curation: scan")
            for task, shard in zip(tasks, shards, strict=True):
                unreadable |= {(task.source, path): (reason, detail) for path, reason, detail in shard.unreadable}
                decoded += shard.decoded
                read += len(task.items)
            forget_tasks(tasks, done=done)  # what they made is found by its keys
        raise StorageError(
            f"What was just seen of the files cannot be read back from {self._cache}.",
            action="check that disk, or remove the folder and run the same command again",
        )

    def _tasks(
        self,
        found: Sequence[tuple[str, list[Item]]],
        missing: Sequence[bool],
        unreadable: dict[tuple[str, str], tuple[str, str]],
        size: int,
    ) -> Iterator[ScanTask]:
        start = 0
        for source, items in found:
            here = missing[start : start + len(items)]
            start += len(items)
            wanted = [
                item
                for item, new in zip(items, here, strict=True)
                if new and not item.fault and (source, item.path) not in unreadable
            ]
            for first in range(0, len(wanted), size):
                some = tuple(wanted[first : first + size])
                yield ScanTask(
                    units=len(some), source=source, items=some, preflight=self.config, looks=self.looks, read=self.read
                )


def scan_shard(task: ScanTask) -> ScanShard:
    """Read the items of one task, look at those whose content is not known, and keep what was found."""
    import cv2

    cv2.setNumThreads(0)
    reuse_memory()
    known = _known_contents(task.looks, tuple(files(task.looks)))
    source = _source(task.source)
    read: list[dict[str, Any]] = []
    looks: dict[bytes, dict[str, Any]] = {}
    unreadable = []
    for item in task.items:
        try:
            data = read_item(task.source, item)
        except DecodeError as error:  # too large to be read, or a tile whose picture is damaged there
            unreadable.append((item.path, error.countable, error.detail))
            continue
        except OSError as error:
            unreadable.append((item.path, "unreadable", error.strerror or str(error)))
            continue
        content = hashlib.sha256(data).digest()
        read.append({"key": _key(source, item), "sha256": content, "bytes": len(data)})
        key = _as_tile(content) if item.offset == TILE else content
        if key not in looks and known.find(np.array([key], dtype=f"S{KEY}"))[0] < 0:
            looks[key] = {"key": key} | _look(data, task.preflight, tile=item.offset == TILE)
    outputs = []
    name = hash_bytes(task.model_dump_json().encode())[:16]
    if looks:  # first, so that what was read is known only together with what was seen
        outputs.append(write_table(task.looks, pa.Table.from_pylist(list(looks.values()), schema=_LOOKS), name))
    if read:
        outputs.append(write_table(task.read, pa.Table.from_pylist(read, schema=_READ), name))
    return ScanShard(outputs=tuple(outputs), decoded=len(looks), unreadable=tuple(unreadable))


def _look(data: bytes, config: PreflightConfig, *, tile: bool) -> dict[str, Any]:
    """The columns of LOOK_FIELDS, and the signature."""
    try:
        seen = look_at(data, config, tile=tile)
    except Rejected as rejected:
        nothing = bytes(signatures.SIGNATURE_LENGTH)
        return {"reason": rejected.reason, "detail": rejected.detail, "signature": nothing}
    return seen.columns | {"signature": seen.signature.tobytes()}


@lru_cache(maxsize=2)
def _known_contents(folder: Path, _: tuple[Path, ...]) -> KeptTables:
    """The contents that were looked at; read once a process, as long as there are no new files."""
    return KeptTables(folder)


def _keys_of(found: Sequence[tuple[str, list[Item]]]) -> Keys:
    keys = bytearray()
    for source, items in found:
        place = _source(source)
        for item in items:
            keys += bytes(KEY) if item.fault else _key(place, item)
    return np.frombuffer(bytes(keys), dtype=f"S{KEY}")


def _as_tile(content: bytes) -> bytes:
    """The key of a tile's look: of a file with the same bytes another look may be asked."""
    return hashlib.sha256(b"tile" + content).digest()


def _look_keys(found: Sequence[tuple[str, list[Item]]], content: Keys) -> Keys:
    """By which each file's look is found."""
    tiles = np.array([item.offset == TILE for _, items in found for item in items], dtype=np.bool_)
    if not tiles.any():
        return content
    keys = content.copy()
    raw = content.tobytes()
    keys[tiles] = [_as_tile(raw[row * KEY : (row + 1) * KEY]) for row in np.flatnonzero(tiles)]
    return keys


def _source(source: str) -> str:
    return source if s3.is_uri(source) else os.path.realpath(source)


def _key(source: str, item: Item) -> bytes:
    """Of a file as it lies there: another place, size or time is another key."""
    parts = [source, *map(str, item), *(["upright"] if item.offset == TILE else [])]  # of the picture as it is turned
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _together(
    found: Sequence[tuple[str, list[Item]]],
    facts: pa.Table,
    content: Keys,
    looks: KeptTables,
    row: npt.NDArray[np.int64],
    unreadable: dict[tuple[str, str], tuple[str, str]],
) -> pa.Table:
    """One table of all files."""
    table = looks.take(row, pa.schema(LOOK_FIELDS))
    known = row >= 0
    reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
    number = 0
    for source, items in found:
        for item in items:
            if item.fault:
                reasons[number], details[number] = item.fault, item.detail or FAULTS[item.fault]
            elif (source, item.path) in unreadable:
                reasons[number], details[number] = unreadable[source, item.path]
            number += 1
    hashes = pa.array(as_hashes(content), mask=~known)
    columns = {name: table[name] for name in table.column_names}
    columns |= {"reason": pa.array(reasons, pa.string()), "detail": pa.array(details, pa.string())}
    size = pa.array(facts["bytes"].to_pylist(), pa.int64(), mask=~known)
    return pa.table({"sha256": hashes, "bytes": size, **columns})
