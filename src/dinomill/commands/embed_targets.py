"""Where `dinomill embed` writes: what lies there is replaced only when it is the command's own, and no image is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinomill.commands.embed_parts import unfinished
from dinomill.commands.embed_patches import SUFFIX
from dinomill.commands.embed_sources import Candidate, shown
from dinomill.embeddings.file import is_list, is_own
from dinomill.errors import InputError
from dinomill.storage.writable import require_writable


def require_targets(output: Path, patches: Path | None) -> None:
    """Refuse places that cannot be written, that are the same file, or where a list of somebody else's lies.

    Patch features need a name that ends in ``.npy``.

    Raises:
        InputError: Says which.
        StorageError: When one cannot be written.
    """
    require_writable(output)
    if patches is not None:
        if patches.suffix != SUFFIX:
            raise InputError(
                "Patch features are written as a NumPy array.",
                found=f"--patches {shown(patches.name)}",
                expected=f"a name that ends in {SUFFIX}",
                action="give the file this ending",
            )
        require_writable(patches)
        taken = {path.resolve(): path for path in _written(output, None)}
        if beside := taken.get(patches.resolve()):
            raise InputError(
                f"{shown(str(beside))} cannot hold embeddings and patch features.",
                found=f"--patches {shown(str(patches))}",
                action="name two files",
            )
    listed = output.with_suffix(".txt")
    if output.suffix == ".npy" and (listed.exists() or listed.is_symlink()):
        require_writable(listed)
        if not is_list(listed):
            raise InputError(
                f"{shown(str(listed))} is in the way: the paths of the embeddings belong there.",
                found="a file that `dinomill embed` has not written",
                action="give --output another name, or one that ends in .parquet, which needs no list; or move it away",
            )


def spared(files: Sequence[Candidate], output: Path, patches: Path | None) -> list[Candidate]:
    """The files without what an earlier run has written into the same places, which is no image.

    Raises:
        InputError: When one of the files would be replaced, or what lies in a place is nothing that the command wrote.
    """
    left = list(files)
    for path in _written(output, patches):
        if not path.exists():
            continue
        status = path.stat()
        # A million paths are not resolved: a file of another size or time is another file.
        alike = [one for one in left if (one.size, one.modified) == (status.st_size, status.st_mtime_ns)]
        same = [one for one in alike if Path(one.path).samefile(path)]
        own = _is_own(path, output, patches)
        if same and not own:
            raise InputError(
                f"{shown(str(path))} would be replaced, and is one of the files that are to be embedded.",
                found=shown(same[0].path),
                action="name another file, best in another folder",
            )
        if status.st_size and not own:
            raise InputError(
                f"{shown(str(path))} is in the way.",
                found="a file that `dinomill embed` has not written",
                action="name another file, or move that one away",
            )
        left = [one for one in left if one not in same]
    return left


def _written(output: Path, patches: Path | None) -> list[Path]:
    beside = [output.with_suffix(".txt")] if output.suffix == ".npy" else []
    return [output, *beside, *([] if patches is None else [patches])]


def _is_own(path: Path, output: Path, patches: Path | None) -> bool:
    """Whether a file is what an earlier run has written there."""
    if path == patches:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        return bool(array.ndim == 4 and array.dtype == np.float16)  # no image has four axes
    return is_own(output) or unfinished(output).is_dir()  # stopped between an array and its list
