"""Images with a file of the same name that says something of every pixel: masks, or depth.

<root>/images/<split>/<name>.jpg      any image, in folders of any depth
<root>/masks/<split>/<name>.png       class ids (dinomill.images.masks)
<root>/depth/<split>/<name>.png       distances (dinomill.images.depth)
<root>/classes.txt                    a class a line, the first is 0; may be left out
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinomill.errors import InputError
from dinomill.images.masks import upright_size
from dinomill.images.sidecars import is_sidecar

CLASSES_NAME = "classes.txt"


@dataclass(frozen=True)
class PairedPaths:
    """One split's files, in the order of their paths."""

    root: Path
    paths: tuple[Path, ...]
    targets: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]  # height and width of each

    def __len__(self) -> int:
        return len(self.paths)


def find_paired(
    root: Path, split: str, targets: str = "masks", *, images: str = "images", limit: int | None = None
) -> PairedPaths:
    """List a split; sizes are compared by the files' headers.

    Args:
        root: The set.
        split: Name of a folder in ``images`` and in ``targets``.
        targets: The folder of masks or depth.
        images: The folder of images.
        limit: At most this many pairs, evenly from the whole split.

    Raises:
        InputError: When folders or files are missing, or the two of a pair differ in size; it names them.
    """
    if root.is_file():
        raise InputError(
            f"{root} is no folder.",
            found="a file",
            expected=f"a folder with {images}/<split>/<name>.jpg and {targets}/<split>/<name>.png",
            action="correct `labelled`",
        )
    of_images, of_targets = _files(root / images / split, targets), _files(root / targets / split, targets)
    if missing := [name for name in of_images if name not in of_targets]:
        raise InputError(
            f"{len(missing)} of {len(of_images)} images in {root / images / split} have no file in "
            f"{root / targets / split}.",
            found=f"nothing for {of_images[missing[0]].name}",
            expected=f"{root / targets / split / missing[0]}.png, of the same size",
            action="add what is missing, or take those images out of the split",
        )
    names = sorted(of_images)
    if limit is not None and limit < len(names):
        names = [names[index] for index in np.linspace(0, len(names) - 1, limit).round().astype(int)]
    sizes = tuple(_same_size(of_images[name], of_targets[name]) for name in names)
    return PairedPaths(root, tuple(of_images[name] for name in names), tuple(of_targets[name] for name in names), sizes)


def read_class_names(root: Path) -> tuple[str, ...] | None:
    """The names of a set's classes, in the order of their ids; None where no file tells them."""
    path = root / CLASSES_NAME
    if not path.is_file():
        return None
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(set(names)) < len(names) or not names:
        raise InputError(
            f"{path} does not name classes.",
            found="no line" if not names else f"{len(names) - len(set(names))} names twice",
            expected="a name a line, each once; the first is that of id 0",
            action="correct the file, or remove it: classes are then called by their ids",
        )
    return names


def _files(folder: Path, targets: str) -> dict[str, Path]:
    """Files by their path below the folder, without suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        # A link that leads nowhere counts: it is said when it is read; left out, it would change the score.
        if not (path.is_file() or (path.is_symlink() and not path.exists())) or is_sidecar(folder, path):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(
                f"Two files in {folder} have the same name, and it is not known which belongs to the other folder.",
                found=f"{found[name].name} and {path.name}",
                action="keep one of them",
            )
        found[name] = path
    if not found:
        above = folder.parent
        present = sorted(p.name for p in above.iterdir() if p.is_dir()) if above.is_dir() else []
        raise InputError(
            f"There are no files in {folder}.",
            found=f"folders beside it: {', '.join(present)}" if present else f"no folder {above}",
            expected=f"images/<split>/<name>.jpg and {targets}/<split>/<name>.png",
            action="correct the set's folder or the name of its split",
        )
    return found


def _same_size(image: Path, target: Path) -> tuple[int, int]:
    if gone := next((path for path in (image, target) if not path.exists()), None):
        raise InputError(
            f"{gone} leads nowhere.",
            found="a link to a file that is not there",
            action="mend the link, or take image and mask out",
        )
    size, other = upright_size(image), upright_size(target)
    if size != other:
        raise InputError(
            f"{target} is not of the size of its image.",
            found=f"{other[1]}×{other[0]} pixels",
            expected=f"{size[1]}×{size[0]}, as {image}",
            action="write it again at the size of the image; masks without smoothing between ids",
        )
    return size
