"""Labelled images, for evaluation and for watching a training: ``<folder>/<split>/<class>/<image>``, or a table.

A table is Parquet or CSV with the columns path, label, split: see ``labelled_table``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Pixels
from dinomill.errors import InputError
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.file_bytes import read_file
from dinomill.images.labelled_table import is_table, read_split
from dinomill.images.sidecars import is_sidecar

_LAYOUT = "<split>/<class>/<image>, for example train/shoe/001.png"


@dataclass(frozen=True)
class LabelledImages:
    """One split. Images are in the order of their paths; ``labels`` index ``classes``."""

    images: tuple[Pixels, ...]  # each [H, W, C] uint8
    labels: npt.NDArray[np.int64]  # [N]
    classes: tuple[str, ...]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class LabelledPaths:
    """One split's files, in the order of their paths; ``labels`` index ``classes``."""

    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]  # [N]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)


def root_of(labelled: Path) -> Path:
    """What a set's paths are shown relative to: its folder, or that of its table."""
    return labelled.parent if is_table(labelled) else labelled


def shown_from(root: Path, path: Path) -> str:
    """An image's path from a set's root; a table may name images elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def place_of(labelled: Path, split: str) -> str:
    """A split in messages: its folder, or the table and its name."""
    return f"{labelled} (split {split})" if is_table(labelled) else str(labelled / split)


def find_labelled(
    folder: Path, split: str, *, classes: tuple[str, ...] | None = None, limit: int | None = None
) -> LabelledPaths:
    """List a split without reading it.

    Args:
        folder: The labelled set: a folder, or a table.
        split: Name of a folder in it, or of rows of the table: ``train`` or ``test``.
        classes: The classes' names, when another split defined them; None: the folders of this split.
        limit: At most this many images, evenly from the whole split.

    Raises:
        InputError: When the folder, split or classes are missing; it names the path.
    """
    if is_table(folder):
        listed, told = read_split(folder, split, classes=classes, limit=limit)
        numbers = np.array([label for _, label in listed], dtype=np.int64)
        return LabelledPaths(tuple(path for path, _ in listed), numbers, told)
    root = folder / split
    if not root.is_dir():
        present = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        raise InputError(
            f"There is no labelled split {root}.",
            found=f"folders there: {', '.join(present)}" if present else _instead(folder),
            expected=_LAYOUT,
            action="set `labelled` in conf/local/globals.yml to a folder of that layout",
        )
    present = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = classes or tuple(present)
    if unknown := sorted(set(present) - set(names)):
        raise InputError(
            f"{root} has classes that the other split lacks.",
            found=", ".join(unknown),
            expected=", ".join(names),
            action="give both splits the same classes: what was never shown cannot be recognised",
        )
    found = [(path, label) for label, name in enumerate(names) for path in _files(root / name)]
    if not found:
        raise InputError(f"{root} holds no image.", expected=_LAYOUT, action="put images into its class folders")
    if limit is not None and limit < len(found):
        found = [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int)]
    return LabelledPaths(
        tuple(path for path, _ in found), np.array([label for _, label in found], dtype=np.int64), tuple(names)
    )


def read_labelled(
    folder: Path,
    split: str,
    *,
    channels: int = 3,
    classes: tuple[str, ...] | None = None,
    limit: int | None = None,
    min_side: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> LabelledImages:
    """Read a split whole.

    Args:
        folder: The labelled set.
        split: Name of a folder in it: ``train`` or ``test``.
        channels: 3, 1, or the number that the files hold.
        classes: The classes' names, when another split defined them; None: the folders of this split.
        limit: At most this many images, evenly from the whole split.
        min_side: See ``decode_image``.
        value_range: See ``decode_image``.

    Raises:
        InputError: When the folder, split or classes are missing, or an image cannot be read; it names the path.
    """
    found = find_labelled(folder, split, classes=classes, limit=limit)
    images = tuple(
        read_image(path, channels=channels, min_side=min_side, value_range=value_range) for path in found.paths
    )
    return LabelledImages(images, found.labels, found.classes, found.paths)


def read_image(
    path: Path,
    *,
    channels: int = 3,
    min_side: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> Pixels:
    """Decode one labelled image, strictly.

    Raises:
        InputError: When it cannot be used.
    """
    try:
        return decode_image(read_file(path), channels=channels, min_side=min_side, value_range=value_range)
    except DecodeError as error:
        found = f"{error.countable}: {error.detail}"
    except OSError as error:
        found = error.strerror or str(error)
    raise InputError(
        f"The labelled image {path} cannot be used.",
        found=found,
        action="remove or replace that file: a score on silently dropped images would not be comparable",
    )


def _instead(place: Path) -> str:
    """What lies where folders were looked for."""
    if place.is_file():
        return "a file"
    files = sorted(p.name for p in place.iterdir()) if place.is_dir() else []
    return f"files without folders: {files[0]}, …" if files else "no such folder, or an empty one"


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    # A link that leads nowhere is kept: its image cannot be read, which is said; left out, it would change the score.
    return sorted(p for p in folder.rglob("*") if (p.is_file() or _leads_nowhere(p)) and not is_sidecar(folder, p))


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()
