"""The dataset of a version, by DVC's name of it, from the project's cache or its remote."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from dinomill.errors import InputError
from dinomill.handles import HANDLE_NAME, DatasetHandle
from dinomill.reproduction.dvc import pull
from dinomill.storage.atomic import storage_errors
from dinomill.storage.hashing import hash_file


def bring_dataset(root: Path, tags: Mapping[str, str], folder: Path, here: Path | None) -> DatasetHandle:
    """Put a version's dataset into its place.

    Args:
        root: The project that has the cache, and knows the remotes.
        tags: The version's: ``dvc_curated``, ``dataset_sha256``.
        folder: Where the dataset shall lie; absolute.
        here: The dataset of the project at work, where it has one: taken where it is the same.

    Raises:
        InputError: When it is nowhere, or what DVC has under its name is not what was trained on.
        StorageError: When there is no room for it.
    """
    wanted = tags["dataset_sha256"]
    name = tags.get("dvc_curated")
    problem = "the version has no name of DVC's for it: it was registered before DVC had looked (`kedro run` alone)"
    if name is not None:
        problem = pull(root, name, folder) or ""
        if not problem and not (folder / HANDLE_NAME).is_file():
            problem = f"DVC's {name} is no dataset: it has no {HANDLE_NAME}"
    if name is None or problem:
        if here is None or not _is(here, wanted):
            raise InputError(
                "The dataset of this version cannot be brought.",
                found=f"manifest {wanted[:12]}…; {problem}",
                expected="the dataset in DVC's cache, in its remote, or as the project's present result",
                action="name the remote that has it (`dvc remote add -d NAME s3://…`, credentials by the usual chain), "
                "or push it from where it was made: `dvc push`",
            )
        with storage_errors(folder):
            shutil.copytree(here, folder)
    handle = DatasetHandle.load(folder)
    if handle.manifest_sha256 != wanted or not _is(folder, wanted):
        raise InputError(
            "What DVC has under the name of the version's dataset is another one.",
            found=f"manifest {handle.manifest_sha256[:12]}…",
            expected=f"manifest {wanted[:12]}…",
            action="the cache or the remote is damaged, or was written by hand: `dvc pull` from another remote",
        )
    return handle


def settle(dataset: DatasetHandle, project: Path, place: Path) -> DatasetHandle:
    """Let a dataset's handle name the place where it lies now: it was made where ``data`` may have been another folder.

    Args:
        dataset: As it was brought.
        project: The new folder.
        place: Of the dataset, below it.

    Returns:
        The handle as it stands there now.
    """

    def here(path: Path) -> Path:
        return place / (path.relative_to(dataset.folder) if path.is_relative_to(dataset.folder) else path.name)

    changes = {"folder": place, "manifest": here(dataset.manifest), "shards": tuple(map(here, dataset.shards))}
    settled = dataset.model_copy(update=changes)
    if settled != dataset:
        settled.save(project / place)
    return settled


def link_sources(root: Path, into: Path, sources: list[Path]) -> list[Path]:
    """Let images of the user that the stages read be found in the new folder: those given relative to the project.

    Returns:
        Those that are nowhere.
    """
    missing = []
    for path in sources:
        if path.is_absolute() or (into / path).exists():
            if not (into / path).exists():
                missing.append(path)
            continue
        if not (root / path).exists():
            missing.append(path)
            continue
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).symlink_to((root / path).resolve())
    return missing


def _is(folder: Path, manifest_sha256: str) -> bool:
    path = folder / "manifest.parquet"
    return path.is_file() and hash_file(path) == manifest_sha256
