"""One thing in a source of images, and what may be wrong with it before it is read."""

from __future__ import annotations

from typing import NamedTuple

TILE = -2  # as an item's offset: a window of a file, which its path names (images/tiles.py)


class Item(NamedTuple):
    """One thing found in a source, whether it is an image or not."""

    path: str  # relative to its source; unique within it
    size: int  # bytes
    stamp: str  # changes when the content may have: modification time, or S3's entity tag
    offset: int = -1  # of the payload in the source's tar; -1: a file of its own; TILE: a part of one
    fault: str = ""  # why it is not read at all: a link that leads outside, a pipe, an unsafe name
    place: str = ""  # where it is read from, when that is not source/path
    detail: str = ""  # of the fault, for people


FAULTS = {
    "name_not_utf8": "the file's name is not UTF-8, so that no manifest can hold it",
    "broken_link": "a symbolic link to nothing, or to itself",
    "link_outside": "a symbolic link that leads out of the source",
    "link_to_folder": "a symbolic link to a folder; links are not followed",
    "not_a_file": "a pipe, socket, device or link",
    "unsafe_path": "an absolute path, or one that climbs out of its archive",
    "repeated_name": "another member of the archive has the same name",
    "missing": "the manifest names it, and it is not there",
}
