"""What images show, as far as filters ask: a score of unsafe content, and where there are faces.

<cache>/content/<hash>/     scores and boxes by content of the image (storage/kept_tables.py), a folder a question
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from dinomill.curation.content import faces, nsfw
from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.work_done import say
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, forget_tasks, run_tasks
from dinomill.images import made_of
from dinomill.images.decode import decode_image
from dinomill.images.listing import Item, as_item, read_unchanged
from dinomill.storage.hashing import hash_file, hash_json
from dinomill.storage.kept import as_keys, made_by, remove_unused
from dinomill.storage.kept_tables import KEY_FIELD, KeptTables, write_table

CONTENT_SCHEMA = pa.schema(
    [
        pa.field("nsfw", pa.float32()),  # probability in [0, 1]; null: not asked for
        pa.field("faces", pa.int32()),  # how many; null: not asked for
        pa.field(
            "face_boxes", pa.list_(pa.float32())
        ),  # left, top, right, bottom of each, as shares of width and height
    ]
)
_CODE = (*made_of.CODE, "dinomill.curation.content")  # decides an answer, beside the networks
_LIBRARIES = (*made_of.LIBRARIES, "onnxruntime")
_PER_TASK = 256  # images: ten to forty seconds


class ContentTask(Task):
    """Some images, and what is asked of them."""

    images: tuple[tuple[str, Item], ...]  # source and item
    sides: tuple[tuple[int, int], ...] = Field(description="width and height of each")
    hashes: tuple[str, ...] = Field(description="sha256 of the images' contents, by which the answers are kept")
    nsfw: bool
    face_score: float | None = Field(description="the least score of a face; None: faces are not looked for")
    face_side: int
    value_range: tuple[float, float] | None = None
    networks: str = Field(description="of the weights: other networks are another task")
    folder: Path


class ContentShard(TaskResult):
    """A finished task: a Parquet table of CONTENT_SCHEMA is the only output."""


def asked(config: FilterConfig) -> str | None:
    """A hash of what the filters ask of the pictures' content and of the networks that answer; None: nothing.

    Raises:
        MachineError: When a network is not installed.
    """
    networks = {}
    if config.max_nsfw is not None:
        networks["nsfw"] = hash_file(nsfw.weights())
    if config.faces is not None:
        networks["faces"] = hash_file(faces.weights())
        networks["search"] = f"{config.faces.min_score} {config.faces.side}"
    return hash_json(networks) if networks else None


def examine(
    files: pa.Table,
    config: FilterConfig,
    *,
    value_range: tuple[float, float] | None = None,
    work: Path,
    execution: ExecutionConfig,
    cache: Path | None = None,
) -> pa.Table:
    """Ask the networks about every readable image that may become part of the dataset and was not asked about before.

    Args:
        files: The scan's table, in which ``candidate`` says what may become part of the dataset.
        config: What is asked; nothing by default.
        value_range: Stored values that are black and white, in files of more than 8 bits.
        work: Where unfinished work is kept.
        execution: Where tasks run.
        cache: Where answers are kept; None: in ``work``.

    Returns:
        A table of CONTENT_SCHEMA with a row a row of ``files``, null where nothing was asked.

    Raises:
        InputError: When an image changed since it was scanned.
        MachineError: When a network is not installed.
    """
    networks = asked(config)
    wanted = np.flatnonzero(pc.and_(files["candidate"], pc.is_null(files["reason"])).to_numpy(zero_copy_only=False))
    if networks is None or not len(wanted):
        return pa.table([pa.nulls(len(files), field.type) for field in CONTENT_SCHEMA], schema=CONTENT_SCHEMA)
    everything = (cache or work / "cache") / "content"
    room = everything / hash_json([networks, value_range, made_by(_CODE, _LIBRARIES)])[:16]
    wanted_files = files.take(pa.array(wanted))
    keys = as_keys(wanted_files["sha256"].to_pylist())
    missing = np.flatnonzero(KeptTables(room).find(keys) < 0)
    taken_over = len(keys) - len(missing)
    _, first = np.unique(keys[missing], return_index=True)  # of files with the same bytes, one
    missing = missing[np.sort(first)]
    tasks = _tasks(wanted_files.take(pa.array(missing)), config, networks, room, value_range)
    done = work / "content" / "done"
    run_tasks(examine_shard, tasks, ContentShard, done=done, config=execution, name="curation: content")
    forget_tasks(tasks, done=done)  # what they found is found by its keys
    kept = KeptTables(room, CONTENT_SCHEMA)
    place = np.full(len(files), -1, dtype=np.int64)
    place[wanted] = kept.find(keys)
    assert (place[wanted] >= 0).all(), "every image was asked about"
    kept.tidy(place)
    remove_unused(everything)
    say("content", len(missing), len(keys), taken_over)
    return kept.take(place, CONTENT_SCHEMA)


def examine_shard(task: ContentTask) -> ContentShard:
    """Ask about the images of one task, one at a time and with one thread, and write the answers."""
    import cv2

    cv2.setNumThreads(0)
    rows = []
    for (source, item), sides, sha256 in zip(task.images, task.sides, task.hashes, strict=True):
        data = read_unchanged(source, item, sha256)
        row: dict[str, Any] = {"key": bytes.fromhex(sha256), "nsfw": None, "faces": None, "face_boxes": None}
        if task.nsfw:
            row["nsfw"] = nsfw.nsfw_score(decode_image(data, min_side=nsfw.SIDE, value_range=task.value_range))
        if task.face_score is not None:
            boxes = faces.find_faces(_large_enough(data, sides, task), task.face_score, task.face_side)
            row |= {"faces": len(boxes), "face_boxes": [share for box in boxes for share in box]}
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=pa.schema([KEY_FIELD, *CONTENT_SCHEMA]))
    return ContentShard(outputs=(write_table(task.folder, table, task.content_hash()[:16]),))


def _large_enough(data: bytes, sides: tuple[int, int], task: ContentTask) -> npt.NDArray[np.uint8]:
    """The picture, decoded so that its longer side is not below what is looked at."""
    shorter = math.ceil(task.face_side * min(sides) / max(sides))
    return decode_image(data, min_side=shorter, value_range=task.value_range)


def _tasks(
    files: pa.Table, config: FilterConfig, networks: str, folder: Path, value_range: tuple[float, float] | None
) -> list[ContentTask]:
    columns = files.select(["source", "path", "bytes", "start", "place", "sha256", "width", "height"])
    tasks = []
    for start in range(0, len(columns), _PER_TASK):
        some: list[dict[str, Any]] = columns.slice(start, _PER_TASK).to_pylist()
        tasks.append(
            ContentTask(
                units=len(some),
                images=tuple((row["source"], as_item(row)) for row in some),
                sides=tuple((row["width"], row["height"]) for row in some),
                hashes=tuple(row["sha256"] for row in some),
                nsfw=config.max_nsfw is not None,
                face_score=config.faces.min_score if config.faces else None,
                face_side=config.faces.side if config.faces else 0,
                value_range=value_range,
                networks=networks,
                folder=folder,
            )
        )
    return tasks
