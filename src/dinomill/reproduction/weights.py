"""The weights that a version's training started from, or was taught by: brought to where its settings name them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dinomill import tracking
from dinomill.errors import InputError
from dinomill.handles import HANDLE_NAME, ModelHandle
from dinomill.layers import Layers
from dinomill.models.address import is_registered
from dinomill.reproduction.checkout import lay_setting
from dinomill.reproduction.dvc import pull
from dinomill.reproduction.recorded import Recorded
from dinomill.stages import WEIGHTS
from dinomill.storage.atomic import storage_errors
from dinomill.storage.typed import expanded, is_there
from dinomill.tracking.dvc_history import History


@dataclass(frozen=True)
class Given:
    """Weights that a stage was given.

    Args:
        stage: Which.
        address: As its settings name them.
        sha256: Of their content at that time; None: nobody wrote it down.
    """

    stage: str
    address: str
    sha256: str | None

    @property
    def key(self) -> str:
        """The setting that names them."""
        return f"{self.stage}.{WEIGHTS[self.stage]}"


def given_weights(root: Path, layers: Layers, found: Recorded) -> Iterator[Given]:
    """The weights that the stages of a version were given: none where all began at random.

    Args:
        root: The project at work.
        layers: The settings of the new folder.
        found: The version.
    """
    from dinomill.features.base import EFFICIENTNET

    for stage in found.stages:
        address = (layers.parameters.get(stage) or {}).get(WEIGHTS[stage])
        if address is None or (stage == "distillation" and "pretraining" in found.stages) or address == EFFICIENTNET:
            continue
        sha256 = found.tags.get("teacher_sha256") if stage == "distillation" else _started_from(root, layers, found)
        yield Given(stage, str(address), sha256)


def bring_weights(root: Path, project: Path, given: Given, found: Recorded, store: str) -> str:
    """Let the weights of that time be found where a stage of the new folder looks for them.

    Args:
        root: The project at work, which may have them, and knows DVC's cache and remotes.
        project: The new folder.
        given: Which.
        found: The version.
        store: The MLflow store, for ``models:/…``.

    Returns:
        Where they came from, for people.

    Raises:
        InputError: When they are nowhere, or are others now.
        StorageError: When there is no room for them.
    """
    if is_registered(given.address):
        return _of_the_registry(project, given, store)
    path = expanded(given.address)
    if _are(project / path, given):
        return f"{path}, as it lies there" if path.is_absolute() else f"{path}, the commit's"
    if not path.is_absolute() and (said := _into(root, project, path, given, found)) is not None:
        return said
    raise InputError(
        f"{given.key}: the weights {given.address} of that time cannot be brought.",
        found="other weights" if is_there(project / path) or is_there(root / path) else "nothing of this name",
        expected=f"weights of sha256 {given.sha256}" if given.sha256 else "the file or folder",
        action=f"put them back at {root / path}, or `dvc push` them from where the version was trained",
    )


def _into(root: Path, project: Path, path: Path, given: Given, found: Recorded) -> str | None:
    """Bring a path of the project from the project at work, or from DVC; None where neither has those weights."""
    # Where nobody wrote down what they were, DVC's name of that time is surer than what lies here now.
    if given.sha256 is not None and _are(root / path, given):
        return _link(root, project, path)
    for part, name in _names(project, path, given.stage, found):
        if is_there(project / part) or pull(root, name, project / part) is not None:
            continue
        if _are(project / path, given):
            return f"{path}, by DVC's name {name}"
        _remove(project / part)
    if given.sha256 is None and _are(root / path, given):
        return f"{_link(root, project, path)}; what it was then is not recorded"
    return None


def _are(place: Path, given: Given) -> bool:
    """Whether weights lie at a place, and are those, as far as that is known."""
    from dinomill.features.door import describe

    if not is_there(place):
        return False
    try:
        return given.sha256 in (None, describe(place).weights_sha256)
    except InputError:
        return False


def _link(root: Path, project: Path, path: Path) -> str:
    from dinomill.features.door import describe

    with storage_errors(project / path):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        # A network may be several files beside each other: a graph, and its weights.
        for file in {root / path, *(one for one in describe(root / path).paths if one.parent == (root / path).parent)}:
            (project / path).with_name(file.name).symlink_to(file.resolve())
    return f"{path}, as it is here"


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _names(project: Path, path: Path, stage: str, found: Recorded) -> Iterator[tuple[Path, str]]:
    """DVC's names of a path, or of a folder above it, as the commit's own files and the version's lock have them."""
    parts = [part for part in (path, *path.parents) if part != Path()]
    present = History(project, [part.as_posix() for part in parts]).present
    for part in parts:
        locked = None if found.lock is None else found.lock.dependency(stage, part.as_posix())
        names = [_added(project / f"{part}.dvc"), locked]
        names += sorted(version for folder, version in present if folder == part.as_posix())
        yield from ((part, name) for name in dict.fromkeys(names) if name)


def _added(file: Path) -> str | None:
    """The hash in what `dvc add` writes."""
    try:
        (out,) = yaml.safe_load(file.read_text(encoding="utf-8"))["outs"]
        return str(out["md5"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def _of_the_registry(project: Path, given: Given, store: str) -> str:
    version = tracking.resolve(given.address, store)
    if given.sha256 in (None, version.tags.get(tracking.WEIGHTS_TAG)):
        return version.uri
    same = [one for one in tracking.versions(store, version.name) if one.tags.get(tracking.WEIGHTS_TAG) == given.sha256]
    if not same:
        raise InputError(
            f"{given.key}: {given.address} means other weights now.",
            found=f"{version.uri}, weights of sha256 {version.tags.get(tracking.WEIGHTS_TAG)}",
            expected=f"a version of {version.name} with weights of sha256 {given.sha256}",
            action="register those weights again, or name the store that has them by MLFLOW_TRACKING_URI",
        )
    lay_setting(project, given.key, same[-1].uri)
    return f"{same[-1].uri}, which {given.address} meant then"


def _started_from(root: Path, layers: Layers, found: Recorded) -> str | None:
    """The content that the version's own pretraining started from, as its tag or the handle of its result says it."""
    of_itself = found.tags.get("network") == "teacher"
    if of_itself and (said := found.tags.get("initial_sha256")):
        return said
    weights = found.tags.get(tracking.WEIGHTS_TAG if of_itself else "teacher_sha256")
    for handle in _handles(root, Path(layers.globals["folders"]["teacher"]), found, of_itself=of_itself):
        if weights and handle.get(tracking.WEIGHTS_TAG) == weights:
            return handle.get("initial_sha256")
    return None


def _handles(root: Path, folder: Path, found: Recorded, *, of_itself: bool) -> Iterator[dict[str, Any]]:
    """What may be the handle of the teacher of that time: in DVC's cache, or as it lies here now."""
    names = [found.tags.get("dvc_model") if of_itself else None]
    if found.lock is not None:
        names.append(found.lock.version if of_itself else found.lock.dependency("distillation", folder.as_posix()))
    history = History(root, ())
    for name in filter(None, names):
        if handle := history.read(name, HANDLE_NAME):
            yield handle
    if (root / folder / HANDLE_NAME).is_file():
        yield ModelHandle.load(root / folder).model_dump(mode="json")
