"""What is compared: raw pixels, random networks, references, the starting weights, the champion, teacher, students."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from dinomill.errors import DinomillError, InputError
from dinomill.evaluation.config import RandomConfig, ReferenceConfig
from dinomill.evaluation.names import told_apart
from dinomill.features.backbone import BackboneFeatures, describe_model
from dinomill.features.base import EFFICIENTNET, Tokens
from dinomill.features.door import describe
from dinomill.features.door import open as open_features
from dinomill.handles import ModelHandle, StudentsHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models.backbones import Backbone, new_backbone
from dinomill.models.config import Pooling
from dinomill.models.kinds import ModelConfig, kind_of
from dinomill.scores import NAMED_KINDS
from dinomill.storage.hashing import hash_json

# Images above this side are averaged down for the pixel baseline: more would drown its neighbours in detail.
PIXEL_SIDE = 32
# Side in pixels of a place of the pixel baseline where the compared network has no patches.
_PIXEL_PATCH = 16

log = logging.getLogger(__name__)


class Forward(Protocol):
    """A network that is ready: ``dinomill.features.Features``, or the pixels themselves."""

    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of ``[B, C, S, S]``."""

    def blocks(self, batch: Tensor, count: int) -> tuple[Tokens, ...]:
        """Tokens of the last blocks, the deepest last."""


@dataclass(frozen=True)
class Network:
    """One row of the comparison.

    Args:
        name: Shown to people.
        kind: See ``dinomill.scores.KINDS``.
        parameters: Trainable numbers.
        preprocessing: From decoded image to input.
        identity: Hash of whatever makes its features what they are, preprocessing aside.
        pooling: What its embedding is; of the random ones the evaluation tries several.
        build: Makes the function from inputs ``[B, C, S, S]`` to features; called only when features must be computed.
    """

    name: str
    kind: str
    parameters: int
    preprocessing: PreprocessingConfig
    identity: str
    pooling: Pooling
    build: Callable[[torch.device], Forward]
    places: bool = True  # it has a feature for every place of an image
    taught_by: str | None = None  # hash of the weights that it was distilled from

    @property
    def label(self) -> str:
        """Its name in files and metrics: its kind, and the name where there may be several of a kind."""
        return f"{self.kind}-{self.name}" if self.kind in NAMED_KINDS else self.kind


def compared(
    teacher: ModelHandle | None,
    students: StudentsHandle,
    random: RandomConfig,
    references: Sequence[ReferenceConfig] = (),
    *,
    champion: str | None = None,
    seed: int,
) -> list[Network]:
    """All rows, in the order of the table; several of kind ``random``, of which one will be shown.

    Args:
        teacher: The pretrained network; None where the students had another teacher, which is then the row.
        students: The distilled ones.
        random: How many random networks are drawn.
        references: Networks made elsewhere.
        champion: Address of the version in use; a row where there is one, and it is none of the others.
        seed: Of the first random network.
    """
    own = teacher or students.students[students.champion]  # whose shape the random network and the pixels have
    taught = [_trained(handle, "student") for handle in students.students.values()]
    given = _given_teacher(students) if teacher is None else []
    rows = [*(given if teacher is None else [_trained(teacher, "teacher")]), *taught]
    shown = describe(own.folder).preprocessing
    drawn = _one_of_each_family(own, students)
    initial = [_random(handle, random, seed + index) for handle in drawn for index in range(random.seeds)]
    start = [] if teacher is None or teacher.start is None else [_start(teacher, teacher.start)]
    known = {row.identity for row in rows}
    present = [row for row in _champion(champion) if row.identity not in known]
    # A reference that is the given teacher, seen alike, would be its row again; at another size it is another one.
    shown_so = {(row.identity, row.preprocessing) for row in given}
    elsewhere = [row for row in _references(references) if (row.identity, row.preprocessing) not in shown_so]
    others = [pixels(shown, load_shape(own.folder).patch_size), *initial, *elsewhere]
    return [*others, *start, *present, *rows]


def _given_teacher(students: StudentsHandle) -> list[Network]:
    """The teacher that distillation named, as it saw the images; nothing where its weights are not there any more."""
    address = students.teacher
    if address is None:  # of students that an earlier version made
        return []
    try:
        row = of_address(address, "teacher", image_size=students.teacher_size)
    except DinomillError as error:
        log.warning("The teacher %s is no row of the table: %s", address, error.problem)
        return []
    if not all(student.taught_by(row.identity) for student in students.students.values()):
        log.warning("The teacher %s is no row of the table: other weights lie there than those that taught.", address)
        return []
    return [row]


def _champion(address: str | None) -> list[Network]:
    """The version in use; nothing where there is none yet, or the registry cannot be reached."""
    if address is None:
        return []
    try:
        return [of_address(address, "champion", name="champion")]
    except InputError:
        return []  # as in every project before its first registration
    except DinomillError as error:
        log.warning("The champion is no row of the table: %s", error.problem)
        return []


def _trained(handle: ModelHandle, kind: str) -> Network:
    description = describe(handle.folder)
    return Network(
        name=handle.name,
        kind=kind,
        parameters=handle.parameters,
        preprocessing=description.preprocessing,
        identity=handle.weights_sha256,
        pooling=description.pooling,
        build=lambda device: open_features(handle.folder, device=str(device)),
        taught_by=handle.teacher_sha256,
    )


def _start(teacher: ModelHandle, folder: Path) -> Network:
    """The weights that the teacher started from, seen as the teacher is seen."""
    description = describe(folder)
    return Network(
        name="starting weights",
        kind="start",
        parameters=teacher.parameters,
        preprocessing=description.preprocessing,
        identity=description.weights_sha256,
        pooling=description.pooling,
        build=lambda device: open_features(folder, device=str(device)),
    )


def _references(configs: Sequence[ReferenceConfig]) -> list[Network]:
    """Networks made elsewhere, each at its own preprocessing or with whole images brought to a side."""
    rows = [of_address(one.network, "reference", whole_at=one.image_size) for one in configs]
    names = told_apart([row.name for row in rows], [one.network for one in configs])
    return [replace(row, name=name) for row, name in zip(rows, names, strict=True)]


def of_address(
    address: str,
    kind: str,
    *,
    name: str | None = None,
    whole_at: int | None = None,
    image_size: int | None = None,
) -> Network:
    """The network of an address, which is resolved once.

    Args:
        address: See ``dinomill.features``.
        kind: Of the row.
        name: Shown to people; None: after the address.
        whole_at: Whole images are brought to this side, nothing is cut off; None: as its preprocessing says.
        image_size: Pixels, instead of the network's own.
    """
    description = describe(address, image_size=image_size)
    settings = description.preprocessing
    shown = name or (address if "/" not in address else Path(address).stem)
    if whole_at is not None:
        settings = PreprocessingConfig.square(whole_at, settings.mean, settings.std)
        shown = f"{shown}-{whole_at}px"
    # An alias may move while images are decoded: what was described is what is opened.
    place = address if address == EFFICIENTNET else description.place
    return Network(
        name=shown,
        kind=kind,
        parameters=description.parameters,
        preprocessing=settings,
        identity=description.weights_sha256,
        pooling=description.pooling,
        build=lambda device: open_features(place, device=str(device), preprocessing=settings),
    )


def _one_of_each_family(own: ModelHandle, students: StudentsHandle) -> list[ModelHandle]:
    """A network, and the first student of each other family: random networks are drawn of their shapes."""
    first = {kind_of(load_shape(handle.folder)): handle for handle in [*reversed(students.students.values()), own]}
    return [own, *(one for one in students.students.values() if one in first.values() and one != own)]


def _random(handle: ModelHandle, random: RandomConfig, seed: int) -> Network:
    description = describe(handle.folder)
    assert description.model is not None
    shape = random_shape(description.model, random)
    return random_network(shape, description.preprocessing, seed, handle.parameters)


def random_network(config: ModelConfig, preprocessing: PreprocessingConfig, seed: int, parameters: int) -> Network:
    """A row of a randomly initialised backbone of a shape."""

    def build(device: torch.device) -> Forward:
        model = random_backbone(config, seed)
        return BackboneFeatures(describe_model(model, preprocessing), model).to(device)

    return Network(
        name="random initialisation",
        kind="random",
        parameters=parameters,
        preprocessing=preprocessing,
        # The pooling is chosen afterwards, from the same features.
        identity=hash_json({"model": config.model_dump(mode="json", exclude={"pooling"}), "seed": seed}),
        pooling=config.pooling,
        build=build,
    )


def random_shape(shape: ModelConfig, random: RandomConfig) -> ModelConfig:
    """The shape of a random network to compare one of this shape with."""
    # A network trained without LayerScale stays without: its gain is 1 already.
    return shape.model_copy(update={"layerscale": None if shape.layerscale is None else random.layerscale})


def random_backbone(shape: ModelConfig, seed: int) -> Backbone:
    """A randomly initialised backbone, a function of the seed alone."""
    model = new_backbone(shape)
    model.reset_parameters(torch.Generator().manual_seed(seed))
    return model


def load_shape(folder: Path) -> ModelConfig:
    """The configuration of an exported backbone."""
    shape = describe(folder).model
    assert shape is not None
    return shape


class Pixels:
    """The pixels themselves as features.

    Args:
        patch: Side in pixels of a place.
    """

    def __init__(self, patch: int) -> None:
        self._patch = patch

    def __call__(self, batch: Tensor) -> Tokens:
        """Normalised, as the networks see them: 4 points above plain intensities on Fashion-MNIST."""
        small = functional.adaptive_avg_pool2d(batch, PIXEL_SIDE) if batch.shape[-1] > PIXEL_SIDE else batch
        flat = small.flatten(1)
        places = functional.pixel_unshuffle(batch, self._patch).flatten(2).mT  # [B, N, C · p · p]
        return Tokens(flat, flat[:, :0], places)

    def blocks(self, batch: Tensor, count: int) -> tuple[Tokens, ...]:
        """There is one."""
        del count
        return (self(batch),)


def pixels(preprocessing: PreprocessingConfig, patch: int | None) -> Network:
    """The row of raw pixels.

    Args:
        preprocessing: As the compared network sees them.
        patch: Side of its patches; None: it has none.
    """
    side = preprocessing.image_size
    patch = next(size for size in (patch or _PIXEL_PATCH, *range(_PIXEL_PATCH, 0, -1)) if side % size == 0)
    return Network(
        name="raw pixels",
        kind="pixels",
        parameters=0,
        preprocessing=preprocessing,
        identity=hash_json({"normalised pixels": PIXEL_SIDE, "places": patch}),
        pooling="cls",  # there is only one
        build=lambda _: Pixels(patch),
    )
