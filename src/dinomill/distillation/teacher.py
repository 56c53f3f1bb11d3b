"""Who teaches: this project's own pretraining, or whatever ``dinomill.features`` opens; and what is learnt of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dinomill.distillation.config import ASSIGNED_SIZE, DistillationConfig
from dinomill.errors import ConfigError, InputError
from dinomill.handles import HEADS_NAME, DatasetHandle, ModelHandle
from dinomill.licences import Provenance, of_handle
from dinomill.storage.hashing import hash_file
from dinomill.storage.typed import expanded, is_there
from dinomill.training.config import TeachingConfig


@dataclass(frozen=True)
class Teacher:
    """What a distillation has to know of its teacher.

    Args:
        name: For messages.
        address: Where it lies on this machine; what is registered may mean others tomorrow.
        sha256: Of its weights.
        heads_sha256: Of its DINO and iBOT heads; None without any.
        shape: ``in_channels``; ``patch_size``, ``embed_dim`` and ``depth`` where it is a vision transformer.
        parameters: How many it has; 0 where nothing says it.
        dim: Width of its features.
        image_size: Pixels at which it sees images by itself.
        mean: Per channel, what its images are normalised with.
        std: Per channel.
        provenance: Its licence, and what it was made from.
    """

    name: str
    address: str
    sha256: str
    heads_sha256: str | None
    shape: Mapping[str, Any]
    parameters: int
    dim: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: Provenance


def find_teacher(config: DistillationConfig, own: ModelHandle | None) -> Teacher:
    """The teacher that a configuration names. Weights are hashed; of official ones headers are read.

    Args:
        config: The stage's configuration.
        own: What the pipeline's pretraining made; None while there is nothing.

    Raises:
        InputError: When there is none, or it is no network that gives features.
    """
    if not config.own_teacher:
        assert config.teacher is not None
        return _given(str(config.teacher))
    if own is None:
        raise InputError(
            "There is no teacher to distil from.",
            found="distillation.teacher: null, and no result of pretraining",
            expected="the teacher that pretraining makes, or another one",
            action="run pretraining first, or name a teacher: --params distillation.teacher=ADDRESS (a folder or file "
            "of weights, models:/name@alias, efficientnet-lite0, an .onnx or .pt2 file)",
        )
    from dinomill.models import read_config

    shape = read_config(own.folder)["model"]
    return Teacher(
        name=own.name,
        address=str(own.folder),
        sha256=own.weights_sha256,
        heads_sha256=_heads(own.folder),
        shape=shape,
        parameters=own.parameters,
        dim=shape["embed_dim"],
        image_size=own.image_size,
        mean=tuple(own.mean),
        std=tuple(own.std),
        provenance=of_handle(own),
    )


def given_shape(config: DistillationConfig) -> dict[str, Any]:
    """What another teacher's files say of its shape; see ``Teacher.shape``. Before anything runs.

    Raises:
        InputError: When there is none, or it is no network that gives features.
        ConfigError: When it cannot see the size that is asked for.
    """
    from dinomill.features import describe

    found = describe(str(config.teacher))
    _sees(str(config.teacher), config.teacher_size)
    return dict(_shape(found.model, found.preprocessing.channels))


def _given(address: str) -> Teacher:
    from dinomill.features import describe

    try:
        found = describe(address)
    except InputError as error:
        where = f"distillation.teacher: {error.problem}"
        raise InputError(where, found=error.found, expected=error.expected, action=error.action) from None
    place = found.place
    return Teacher(
        name=address,
        address=address if found.model is None and not is_there(expanded(address)) else str(place.absolute()),
        sha256=found.weights_sha256,
        heads_sha256=_heads(place) if place.is_dir() else None,
        shape=_shape(found.model, found.preprocessing.channels),
        parameters=found.parameters,
        dim=found.dim,
        image_size=found.preprocessing.image_size,
        mean=found.preprocessing.mean,
        std=found.preprocessing.std,
        provenance=Provenance(found.licence, found.origin or ""),
    )


def _shape(model: Any, channels: int) -> Mapping[str, Any]:
    return {"in_channels": channels} if model is None else model.model_dump()


def _heads(folder: Path) -> str | None:
    """The hash of a folder's DINO heads; those of a regression's student are no prototypes to learn from."""
    path = folder / HEADS_NAME
    if not path.is_file():
        return None
    from dinomill.training.given_weights import has_prototypes

    return hash_file(path) if has_prototypes(path) else None


def teaching(config: DistillationConfig, teacher: Teacher, dataset: DatasetHandle) -> TeachingConfig | None:
    """What is learnt of a teacher, resolved; None: the assignments of its heads.

    Raises:
        ConfigError: When a key asks for what the teacher does not have.
    """
    kind = config.objective
    if kind == "auto":
        kind = "assignments" if teacher.heads_sha256 is not None and config.cache is None else "clusters"
    if kind == "assignments":
        if teacher.heads_sha256 is None:
            raise ConfigError(
                f"The teacher {teacher.name} has no heads whose assignments could be learnt.",
                found=f"distillation.objective: assignments, and no {HEADS_NAME} beside the weights",
                action="set distillation.objective to clusters or regression, which learn from features alone",
            )
        if config.teacher_size not in ("auto", config.crops.global_size):
            raise ConfigError(ASSIGNED_SIZE)
        return None
    if config.step.losses.gram is not None:
        raise ConfigError(
            f"Gram anchoring has no anchor with the objective `{kind}`.",
            found="distillation.step.losses.gram",
            action="set it to null: the teacher's patches are learnt themselves",
        )
    images = min(config.teacher_images, max(dataset.images, 32))
    clusters = kind == "clusters"
    directions = config.clusters.dim if clusters else config.regression.dim
    return TeachingConfig(
        objective=kind,
        dim=teacher.dim,
        size=_size(config, teacher),
        images=images,
        # At least four features a centre: a centre of one image says which image it is, and nothing of its kind.
        prototypes=max(min(config.clusters.prototypes, images // 2), 2) if clusters else None,
        whitened_dim=min(directions, teacher.dim) or None,
        hidden_dim=None if clusters else config.regression.hidden_dim,
        views=None if config.cache is None else config.cache.views,
    )


def _size(config: DistillationConfig, teacher: Teacher) -> int:
    _sees(teacher.address, config.teacher_size)
    return teacher.image_size if config.teacher_size == "auto" else config.teacher_size


def _sees(address: str, size: int | Literal["auto"]) -> None:
    """Refuse a size that is no whole number of a network's patches, or another than a program takes."""
    if size == "auto":
        return
    from dinomill.features import describe

    try:
        describe(address, image_size=size)
    except InputError as error:
        where = f"distillation.teacher_size: {error.problem}"
        raise ConfigError(where, found=error.found, expected=error.expected, action=error.action) from None
