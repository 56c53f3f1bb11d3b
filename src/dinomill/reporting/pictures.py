"""Pictures for the page: small, inlined, and read from wherever the original lies."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dinomill.arrays import Pixels
from dinomill.errors import DinomillError
from dinomill.handles import DatasetHandle
from dinomill.images.decode import decode_image
from dinomill.images.listing import TILE, Item, list_items, read_item
from dinomill.images.shards import Location, ShardReader
from dinomill.storage import s3

_SMALL = 64  # pixels: up to this side PNG is no larger than JPEG, and exact


@dataclass(frozen=True)
class Picture:
    """An inlined picture with its caption. ``uri`` is empty when the original cannot be read."""

    uri: str
    name: str
    title: str = ""
    note: str = ""
    good: bool | None = None  # a neighbour of the right class or not; None: not said


def data_uri(pixels: Pixels, side: int) -> str:
    """Pixels ``[H, W, C]`` as a data URI, no longer than ``side``; enlarging is left to the browser."""
    if pixels.shape[2] not in (1, 3):  # many channels: the first three stand for the rest
        pixels = pixels[..., :3] if pixels.shape[2] > 3 else pixels[..., :1]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(image.size) <= _SMALL:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(buffer, "JPEG", quality=82)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Originals:
    """Reads the images of a curated dataset's manifest: kept ones from the shards, others from the pool.

    Args:
        curated: The dataset.
        side: Longer side of the pictures in pixels.
    """

    def __init__(self, curated: DatasetHandle, side: int) -> None:
        self._reader = ShardReader(curated.shards)
        self._channels = curated.channels
        self._range = curated.value_range
        self._side = side
        self._listed: dict[str, dict[str, Item]] = {}

    def read(self, row: dict[str, Any]) -> bytes:
        """The encoded image of a manifest row.

        Raises:
            OSError: When the pool's file is gone.
            DinomillError: When its source is.
        """
        if row.get("shard") is not None:
            return bytes(self._reader.read(Location(row["shard"], row["offset"], row["length"])))
        if row.get("tile_of") is not None:
            return read_item(row["source"], Item(row["path"], 0, "", TILE))
        return read_item(row["source"], self._item(row["source"], row["path"]))

    def pixels(self, row: dict[str, Any]) -> Pixels:
        """The decoded picture of a manifest row, no smaller than it is shown."""
        return decode_image(self.read(row), channels=self._channels, min_side=self._side, value_range=self._range)

    def picture(self, row: dict[str, Any], note: str = "") -> Picture:
        """A small picture of a manifest row; without an image when it cannot be read."""
        name = Path(row["path"]).name
        title = " · ".join(str(part) for part in (row["path"], row.get("reason"), row.get("detail")) if part)
        try:
            return Picture(data_uri(self.pixels(row), self._side), name, title, note)
        except (OSError, DinomillError):
            return Picture("", name, title, note)

    def _item(self, source: str, path: str) -> Item:
        if s3.is_uri(source) or Path(source).is_dir():
            return Item(path, 0, "")
        if source not in self._listed:
            self._listed[source] = {item.path: item for item in list_items(source)}
        try:
            return self._listed[source][path]
        except KeyError:
            raise FileNotFoundError(path) from None


class LabelledPictures:
    """Small pictures of labelled images, each read once.

    Args:
        labelled: Folder that their paths are relative to.
        curated: For channels and the range of values.
        side: Longer side of the pictures in pixels.
    """

    def __init__(self, labelled: Path, curated: DatasetHandle, side: int) -> None:
        self._labelled = labelled
        self._curated = curated
        self._side = side
        self._seen: dict[str, str] = {}

    def __call__(self, path: str, note: str = "", good: bool | None = None) -> Picture:
        """A picture of the image at a path, with a note under it; without an image when it cannot be read."""
        if path not in self._seen:
            self._seen[path] = self._uri(self._labelled / path)
        return Picture(self._seen[path], Path(path).name, path, note, good)

    def _uri(self, path: Path) -> str:
        channels, value_range = self._curated.channels, self._curated.value_range
        try:
            pixels = decode_image(path.read_bytes(), channels=channels, min_side=self._side, value_range=value_range)
            return data_uri(pixels, self._side)
        except (OSError, DinomillError):
            return ""
