"""What is compared: raw pixels, randomly initialised networks, the starting weights, references, teacher, students."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dinomill.evaluation.config import RandomConfig, ReferenceConfig
from dinomill.features.base import Tokens
from dinomill.features.door import describe
from dinomill.features.door import open as open_features
from dinomill.handles import ModelHandle, StudentsHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models.backbones import Backbone, new_backbone
from dinomill.models.config import Pooling
from dinomill.models.kinds import ModelConfig
from dinomill.storage.hashing import hash_json

# Images above this side are averaged down for the pixel baseline: more would drown its neighbours in detail.
PIXEL_SIDE = 32


@dataclass(frozen=True)
class Network:
    """One row of the comparison.

    Args:
        name: Shown to people.
        kind: pixels, random, reference, start, teacher or student.
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
    build: Callable[[torch.device], Callable[[Tensor], Tokens]]


def compared(
    teacher: ModelHandle,
    students: StudentsHandle,
    random: RandomConfig,
    references: Sequence[ReferenceConfig] = (),
    *,
    seed: int,
) -> list[Network]:
    """All rows, in the order of the table; several of kind ``random``, of which one will be shown."""
    rows = [_trained(teacher, "teacher")]
    rows += [_trained(handle, "student") for handle in students.students.values()]
    shown = rows[0].preprocessing
    initial = [_random(teacher, shown, random, seed + index) for index in range(random.seeds)]
    start = [] if teacher.start is None else [_start(teacher, teacher.start)]
    return [_pixels(shown), *initial, *map(_reference, references), *start, *rows]


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


def _reference(config: ReferenceConfig) -> Network:
    """A network made elsewhere, at its own preprocessing or with whole images brought to a side."""
    description = describe(config.network)
    settings = description.preprocessing
    name = config.network if "/" not in config.network else Path(config.network).stem
    if config.image_size is not None:
        # Nothing is cut off: the others see whole images, too.
        settings = PreprocessingConfig.square(config.image_size, settings.mean, settings.std)
        name = f"{name}-{config.image_size}px"
    return Network(
        name=name,
        kind="reference",
        parameters=description.parameters,
        preprocessing=settings,
        identity=description.weights_sha256,
        pooling=description.pooling,
        build=lambda device: open_features(config.network, device=str(device), preprocessing=settings),
    )


def _random(teacher: ModelHandle, preprocessing: PreprocessingConfig, random: RandomConfig, seed: int) -> Network:
    config = random_shape(load_shape(teacher.folder), random)

    def build(device: torch.device) -> Callable[[Tensor], Tokens]:
        return _forward(random_backbone(config, seed).eval(), device)

    return Network(
        name="random initialisation",
        kind="random",
        parameters=teacher.parameters,
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


def _pixels(preprocessing: PreprocessingConfig) -> Network:
    def build(device: torch.device) -> Callable[[Tensor], Tokens]:
        del device

        def flatten(batch: Tensor) -> Tokens:
            # Normalised, as the networks see them: 4 points above plain intensities on Fashion-MNIST.
            if batch.shape[-1] > PIXEL_SIDE:
                batch = functional.adaptive_avg_pool2d(batch, PIXEL_SIDE)
            flat = batch.flatten(1)
            return Tokens(flat, flat[:, :0], None)

        return flatten

    return Network(
        name="raw pixels",
        kind="pixels",
        parameters=0,
        preprocessing=preprocessing,
        identity=hash_json({"normalised pixels": PIXEL_SIDE}),
        pooling="cls",  # there is only one
        build=build,
    )


def _forward(model: Backbone, device: torch.device) -> Callable[[Tensor], Tokens]:
    model = model.to(device).eval()

    def forward(batch: Tensor) -> Tokens:
        outputs = model.forward_features(batch)
        patches = outputs["x_norm_patchtokens"]
        return Tokens(outputs["x_norm_clstoken"], patches.mean(dim=1), patches)

    return forward
