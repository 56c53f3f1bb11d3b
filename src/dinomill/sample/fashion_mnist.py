"""Fashion-MNIST (Xiao et al. 2017; Expat licence): reading its files, fetching the full set.

<folder>/train-images-idx3-ubyte.gz    train-labels-idx1-ubyte.gz
<folder>/t10k-images-idx3-ubyte.gz     t10k-labels-idx1-ubyte.gz
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from dinomill.arrays import Pixels
from dinomill.errors import InputError, MachineError
from dinomill.storage.atomic import atomic_folder

Split = Literal["train", "t10k"]

CLASSES = (
    "t_shirt_top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)
FULL = {"train": 60_000, "t10k": 10_000}
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
_SECONDS = 600
_BY_HAND = (
    f"install the Debian or Ubuntu package {PACKAGE}, or put the four files of "
    "https://github.com/zalandoresearch/fashion-mnist (train-images-idx3-ubyte.gz, …) into {target}, then try again"
)


def image_file(folder: Path, split: Split) -> Path:
    """Where a split's images lie."""
    return folder / f"{split}-images-idx3-ubyte.gz"


def label_file(folder: Path, split: Split) -> Path:
    """Where a split's labels lie."""
    return folder / f"{split}-labels-idx1-ubyte.gz"


def read_split(folder: Path, split: Split) -> tuple[Pixels, Pixels]:
    """Images ``[N, 28, 28]`` and labels ``[N]`` (0…9, see ``CLASSES``) of a split.

    Raises:
        InputError: When a file is missing, damaged, or the two do not belong together.
    """
    images, labels = _read_idx(image_file(folder, split)), _read_idx(label_file(folder, split))
    if images.shape != (len(labels), 28, 28) or (labels >= len(CLASSES)).any():
        raise InputError(
            f"Images and labels of the split {split} in {folder} do not belong together.",
            found=f"images {images.shape}, labels {labels.shape}",
            expected="[N, 28, 28] and [N] with labels from 0 to 9",
            action="restore that folder: `git checkout data/00_shipped`, or fetch the full set again",
        )
    return images, labels


def write_idx(path: Path, array: Pixels) -> None:
    """Write an array as idx.gz; the same array gives the same bytes."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def fetch_full(target: Path, given: Path | None = None) -> Path:
    """All 70,000 images, from where they are first found: the target, a given folder, the system, a Debian archive.

    Args:
        target: Where they are put. Complete files there are used as they are.
        given: A folder that already holds the four files.

    Returns:
        The folder that holds them: the target.

    Raises:
        InputError: When ``given`` lacks files.
        MachineError: When they are nowhere, and no Debian archive can be asked.
    """
    if _is_full(target):
        return target
    if given is not None and not _is_full(given):
        raise InputError(
            f"{given} does not hold the full Fashion-MNIST.",
            found=", ".join(sorted(p.name for p in given.iterdir())[:6]) if given.is_dir() else "no such folder",
            expected="train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
            "t10k-labels-idx1-ubyte.gz with 60,000 and 10,000 images",
            action="name the folder that holds these files",
        )
    source = given or (INSTALLED if _is_full(INSTALLED) else None)
    if source is not None:
        _copy(source, target)
        return target
    with tempfile.TemporaryDirectory(prefix="dinomill-fashion-") as folder:
        _copy(_unpack_package(Path(folder), target), target)
    return target


def _is_full(folder: Path) -> bool:
    try:
        return all(len(_read_idx(label_file(folder, split))) == FULL[split] for split in ("train", "t10k")) and all(
            image_file(folder, split).is_file() for split in ("train", "t10k")
        )
    except InputError:
        return False


def _copy(source: Path, target: Path) -> None:
    with atomic_folder(target) as temporary:
        for split in ("train", "t10k"):
            for file in (image_file(source, split), label_file(source, split)):
                shutil.copyfile(file, temporary / file.name)


def _unpack_package(folder: Path, target: Path) -> Path:
    """Download the Debian package without installing it: neither step needs to be root."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MachineError(
                "The full Fashion-MNIST cannot be fetched on this system.",
                found=f"no {tool}",
                action=_BY_HAND.format(target=target),
            )
    _run(["apt-get", "download", "--quiet", PACKAGE], folder, target)
    packages = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if not packages:
        raise MachineError(f"apt-get downloaded no {PACKAGE}.", action=_BY_HAND.format(target=target))
    _run(["dpkg-deb", "--extract", str(packages[-1]), "unpacked"], folder, target)
    found = folder / "unpacked" / INSTALLED.relative_to("/")
    if not _is_full(found):
        raise MachineError(
            f"The package {packages[-1].name} does not hold the files expected.", action=_BY_HAND.format(target=target)
        )
    return found


def _run(command: list[str], folder: Path, target: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"`{' '.join(command)}` did not end within {_SECONDS} s.", action=_BY_HAND.format(target=target)
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise MachineError(f"`{' '.join(command)}` failed.", found=lines[-1], action=_BY_HAND.format(target=target))


def _read_idx(path: Path) -> Pixels:
    try:
        data = gzip.decompress(path.read_bytes())
        dimensions = data[3]
        shape = np.frombuffer(data, dtype=">u4", count=dimensions, offset=4).astype(int)
        array: Pixels = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError:
        raise InputError(
            f"There is no {path}.",
            expected="a file of Fashion-MNIST, full or the part that ships in data/00_shipped",
            action="`git checkout data/00_shipped` restores it; `dinomill sample --env fashion` fetches the full set",
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise InputError(
            f"{path} is damaged.",
            found=str(error),
            expected="a gzip-compressed idx file of bytes",
            action="restore it with `git checkout data/00_shipped`, or remove it and fetch the full set again",
        ) from None
    return array
