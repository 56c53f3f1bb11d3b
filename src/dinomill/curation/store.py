"""One shard of the curated dataset: its images as they are stored, byte for byte where nothing is asked of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dinomill.curation.content.faces import Box, blur_faces, encode
from dinomill.execution.tasks import Task, TaskResult
from dinomill.images.decode import decode_image, stored_values
from dinomill.images.listing import TILE, Item, read_unchanged
from dinomill.images.reduced import reduce_to, reduced_size
from dinomill.images.shards import ShardWriter
from dinomill.images.tiles import compressed, encode_tile

_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}


class WriteTask(Task):
    """The images of one shard, in order."""

    images: tuple[tuple[str, Item], ...]  # source and item
    hashes: tuple[str, ...]  # their sha256
    formats: tuple[str, ...]
    faces: tuple[tuple[Box, ...], ...]  # to blur, of each
    sides: tuple[tuple[int, int], ...]  # width and height of each
    max_side: int | None
    margin: float
    value_range: tuple[float, float] | None = None
    folder: Path


class WrittenShard(TaskResult):
    """A shard: its path is the only output."""

    offsets: tuple[int, ...]
    lengths: tuple[int, ...]


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
    kind, boxes, sides = task.formats[number], task.faces[number], task.sides[number]
    data = read_unchanged(source, item, task.hashes[number])
    size = reduced_size(*sides, task.max_side)
    if not boxes and size == sides:
        return compressed(data) if _is_tile(task, number) else data, _EXTENSIONS.get(kind, kind.lower())
    if not boxes and (stored := stored_values(data)) is not None:  # its numbers stay numbers of their kind
        data = compressed(encode_tile(reduce_to(stored, size)))
        return data, "png" if data.startswith(b"\x89PNG") else "npy"
    pixels = decode_image(data, min_side=min(size) if size != sides else None, value_range=task.value_range)
    return encode(blur_faces(reduce_to(pixels, size), boxes, task.margin), kind)
