"""Files beside images that are none: notes, labels, what systems leave in folders. They are passed over and counted.

A name decides, but for one thing: a file that is named like a sidecar and begins like an image is an image.
"""

from __future__ import annotations

import os
from pathlib import Path

_SUFFIXES = frozenset(
    {".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yml", ".yaml", ".md", ".html", ".cls", ".log", ".ini", ".xmp"}
)
_NAMES = {"thumbs.db": "Thumbs.db", "desktop.ini": "desktop.ini", ".ds_store": ".DS_Store"}
_IMAGES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    *(b"\x93NUMPY", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
)
HEAD = 12  # bytes that tell


def sidecar_kind(path: str) -> str | None:
    """What a file that is no image is counted as, by its relative path; None: it may be an image."""
    parts = [part for part in path.split("/") if part]
    if "__MACOSX" in parts:
        return "__MACOSX"
    name = parts[-1] if parts else ""
    if (known := _NAMES.get(name.lower())) is not None:
        return known
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden"
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path takes ten times as long)
    return suffix if suffix in _SUFFIXES else None


def may_be_image(kind: str) -> bool:
    """Whether a file of this kind is looked at before it is passed over: its ending alone speaks against it."""
    return kind in _SUFFIXES


def begins_like_image(head: bytes) -> bool:
    """Whether these first bytes are an image's."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or head[4:8] == b"ftyp" or head.startswith(_IMAGES)


def is_sidecar(folder: Path, path: Path) -> bool:
    """Whether a file below a folder is passed over."""
    kind = sidecar_kind(path.relative_to(folder).as_posix())
    return kind is not None and is_passed_over(kind, path)


def is_passed_over(kind: str, path: str | os.PathLike[str]) -> bool:
    """Whether a file that is named like a sidecar of this kind is one."""
    return not (may_be_image(kind) and begins_like_image(_head(path)))


def _head(path: str | os.PathLike[str]) -> bytes:
    try:
        if not Path(path).is_file():  # nobody waits at a pipe
            return b""
        with Path(path).open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
