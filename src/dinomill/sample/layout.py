"""Lay out a sample as a team would have it.

<output>/pool/**                          a messy pool: what curation is given
<output>/scenes/*.tif                     large pictures, of which curation cuts tiles itself
<output>/seeds/*                          good unlabelled examples, none of them in the pool
<output>/labelled/{train,test}/<class>/*  labelled images, never trained on
<output>/planted.parquet                  every file of pool and scenes: path, kind, original, detail; read by no
                                          stage
<output>/handle.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dinomill.arrays import Pixels
from dinomill.errors import InputError
from dinomill.execution.progress import Progress, progress
from dinomill.handles import HANDLE_NAME, SampleHandle
from dinomill.sample import plant
from dinomill.sample.choose import choose
from dinomill.sample.config import SampleConfig
from dinomill.sample.fashion_mnist import fetch_full, image_file, label_file
from dinomill.storage.atomic import atomic_folder, write_parquet
from dinomill.storage.hashing import hash_file, hash_json

PLANTED = "planted.parquet"
RELEVANT = "relevant"
PLANTED_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # relative to the pool, of a scene to the scenes
        pa.field("kind", pa.string(), nullable=False),  # relevant, scene, near_duplicate, exact_duplicate, digit, …
        pa.field("original", pa.string()),  # of a duplicate: the path of the picture that it repeats
        pa.field("detail", pa.string()),  # what was done to it
    ]
)
# Where a team's images come from: a laboratory, partners' deliveries, scans. No folder tells a class.
_FOLDERS = (
    "laboratory/2023/{month:02d}",
    "laboratory/2024/{month:02d}",
    "partners/north/delivery_{batch:02d}",
    "partners/south/delivery_{batch:02d}/approved",
    "scans/batch_{batch:02d}",
    "field/photos",
    "misc/old website/export",
)


class _File(NamedTuple):
    path: str
    data: bytes
    kind: str
    original: str | None = None
    detail: str | None = None


def lay_out(config: SampleConfig) -> SampleHandle:
    """Write the sample whole, or leave it when it is there already; the same configuration gives the same files.

    Args:
        config: What it is made of.

    Raises:
        InputError: When the source is missing, or the output folder holds something else.
        ConfigError: When there are too few pictures.
        MachineError: When pictures are not there and cannot be fetched.
        StorageError: When the disk is full or not writable.
    """
    if config.fetch:
        fetch_full(config.source)
    made_of = _identity(config)
    if (present := _present(config, made_of)) is not None:
        return present
    total = _pool_size(config) + config.scenes + config.seeds + config.bank + config.queries
    with atomic_folder(config.output) as folder, progress("sample: lay out", total, "files") as bar:
        chosen = choose(config)
        pool = _write_pool(folder / "pool", _pool(config, chosen.pool), bar)
        pool += _write_pool(folder / "scenes", _scenes(chosen.scenes), bar)
        counts = Counter(file.kind for file in pool)
        counts["seed"] = _write_seeds(folder / "seeds", chosen.seeds, bar)
        counts["labelled_train"] = _write_labelled(folder / "labelled" / "train", config.classes, chosen.bank, bar)
        counts["labelled_test"] = _write_labelled(folder / "labelled" / "test", config.classes, chosen.queries, bar)
        rows = [{"path": f.path, "kind": f.kind, "original": f.original, "detail": f.detail} for f in pool]
        write_parquet(folder / PLANTED, pa.Table.from_pylist(rows, PLANTED_SCHEMA))
        handle = SampleHandle(folder=config.output, made_of=made_of, counts=dict(sorted(counts.items())))
        handle.save(folder)
    return handle


def _identity(config: SampleConfig) -> str:
    """The configuration and the content of the source: a changed source is laid out anew."""
    files = [path(config.source, split) for split in ("train", "t10k") for path in (image_file, label_file)]
    hashes = [hash_file(file) if file.is_file() else "" for file in files]
    return hash_json([config.model_dump(mode="json", exclude={"output", "source", "fetch"}), hashes])


def _present(config: SampleConfig, made_of: str) -> SampleHandle | None:
    """The handle of a whole sample of this configuration; refuses a folder that is somebody else's."""
    if not config.output.exists() or not any(config.output.iterdir()):
        return None
    if not (config.output / HANDLE_NAME).is_file():
        raise InputError(
            f"{config.output} holds something else than a sample.",
            found=", ".join(sorted(p.name for p in config.output.iterdir())[:5]),
            expected="no such folder, an empty one, or an earlier sample: it would be replaced whole",
            action="move it elsewhere, or set `folders.sample` in globals.yml to another folder",
        )
    handle = SampleHandle.load(config.output)
    files = sum(path.is_file() for path in config.output.rglob("*")) - 2  # without the handle and planted.parquet
    same = handle.made_of == made_of and handle.folder == config.output
    return handle if same and files == sum(handle.counts.values()) else None


def _pool(config: SampleConfig, originals: list[Pixels]) -> Iterator[_File]:
    """The pool's files; their numbers say nothing of their kind."""
    random = np.random.default_rng([config.seed, 2])
    order = random.permutation(len(originals))
    names = _names(random, _pool_size(config))
    repeated = random.permutation(len(originals))[: config.near_duplicates + config.exact_duplicates]
    wanted = set(repeated.tolist())
    kept = {}
    for place, index in enumerate(order):
        kind, extension = ("JPEG", "jpg") if random.random() < 0.3 else ("PNG", "png")
        data = plant.encode(originals[index], kind, int(random.integers(92, 98)))
        file = _File(f"{next(names)}.{extension}", data, RELEVANT)
        if place in wanted:
            kept[place] = file
        yield file
    for count, place in enumerate(repeated):
        original = kept[place]
        if count < config.near_duplicates:
            data, extension, detail = plant.near_duplicate(originals[order[place]], random)
            yield _File(f"{next(names)}.{extension}", data, "near_duplicate", original.path, detail)
        else:
            path = f"{next(names)}{Path(original.path).suffix}"
            yield _File(path, original.data, "exact_duplicate", original.path)
    for data in plant.garments(config.source, config.garments, random) if config.garments else ():
        yield _File(f"{next(names)}.png", data, "garment")
    for data in plant.digits(config.digits, random):
        yield _File(f"{next(names)}.png", data, "digit")
    for data in plant.drawings(config.drawings, random):
        yield _File(f"{next(names)}.png", data, "drawing")
    for data, extension in plant.patches(config.patches, random):
        yield _File(f"{next(names)}.{extension}", data, "patch")
    for number in range(config.broken):
        data, extension, kind = plant.broken(originals[number % len(originals)], number, random)
        yield _File(f"{next(names)}.{extension}", data, kind)


def _pool_size(config: SampleConfig) -> int:
    duplicates = config.near_duplicates + config.exact_duplicates
    irrelevant = config.garments + config.digits + config.drawings + config.patches
    return config.originals + duplicates + irrelevant + config.broken


def _scenes(pictures: dict[str, Pixels]) -> Iterator[_File]:
    for name, pixels in pictures.items():
        detail = f"{pixels.shape[1]}×{pixels.shape[0]} pixels"
        yield _File(f"{name}.tif", plant.encode(pixels, "TIFF"), "scene", None, detail)


def _names(random: np.random.Generator, count: int) -> Iterator[str]:
    """Distinct paths without extension, in an order that says nothing of the kind of file."""
    for number in random.permutation(count):
        folder = _FOLDERS[random.integers(len(_FOLDERS))]
        folder = folder.format(month=random.integers(1, 13), batch=random.integers(1, 9))
        yield f"{folder}/IMG_{number:06d}"


def _write_pool(folder: Path, files: Iterator[_File], bar: Progress) -> list[_File]:
    """Write the files as they come, and return them without their bytes, in the order of their paths."""
    made: set[Path] = set()
    written = []
    for file in files:
        path = folder / file.path
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(file.data)
        written.append(file._replace(data=b""))
        bar.advance(1)
    return sorted(written)


def _write_seeds(folder: Path, images: list[Pixels], bar: Progress) -> int:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(images):
        (folder / f"example_{number:04d}.png").write_bytes(plant.encode(pixels, "PNG"))
        bar.advance(1)
    return len(images)


def _write_labelled(folder: Path, classes: Sequence[str], pictures: list[list[Pixels]], bar: Progress) -> int:
    for name, images in zip(classes, pictures, strict=True):
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(images):
            (folder / name / f"{number:04d}.png").write_bytes(plant.encode(pixels, "PNG"))
            bar.advance(1)
    return sum(len(images) for images in pictures)
