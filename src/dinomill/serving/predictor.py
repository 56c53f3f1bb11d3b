"""Encoded images in, embeddings out: the one way in which a trained backbone is used, here and in a server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from dinomill.arrays import Floats, Pixels
from dinomill.errors import InputError
from dinomill.features.backbone import BackboneFeatures
from dinomill.features.base import Features, Tokens
from dinomill.images.channels import channels_of, conversion
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.images.preprocess import PreprocessingConfig, preprocess, preprocess_bytes
from dinomill.models.backbones import Backbone
from dinomill.models.config import Pooling
from dinomill.models.hardware import has_fast_bf16
from dinomill.models.pooling import pooled_dim
from dinomill.serving.backends.choice import Backend
from dinomill.serving.decoders import ahead, decoders
from dinomill.serving.failures import network_failed, not_finite
from dinomill.serving.source import open_source
from dinomill.serving.stopwatch import Stopwatch
from dinomill.storage.hashing import hash_json

if TYPE_CHECKING:
    from dinomill.serving.viewer import Viewer
    from dinomill.serving.views import View

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Made = TypeVar("Made")
Dtype = Literal["float32", "bfloat16"]
Encoded = bytes | Callable[[], AbstractContextManager[bytes]]  # an image's file, or what opens it


def identity_of(network: str, preprocessing: PreprocessingConfig, pooling: Pooling, *, normalise: bool = False) -> str:
    """Of the embeddings that a network of this identity gives, see `Predictor.identity`."""
    made_of = [network, preprocessing.model_dump(mode="json"), pooling]
    return hash_json([*made_of, "normalised"] if normalise else made_of)


class Predictor:
    """A network ready to embed images.

    Args:
        source: Any address that ``dinomill.features.open`` takes (an exported folder, official, Hugging Face or timm
            weights, ``models:/name@alias``, an ONNX file …), features, or a model (then with ``preprocessing``).
        device: Where to run: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``float32``, or ``bfloat16`` for products in half precision (embeddings stay float32). Hardware that has
            none computes in float32, which is said: imitated, it took seven times as long.
        batch_size: Images a forward pass.
        pooling: The class token, the mean of the patch tokens, or both side by side; by default what the model says.
            Of both each is of length 1, hence the whole of length √2.
        preprocessing: Instead of the settings that the network comes with.
        image_size: Pixels, instead of the network's own; a whole number of patches.
        workers: Threads that decode the next batches while the network runs; 0 decodes in between.
        normalise: Divide each embedding by its length, so that products are cosines.
        max_pixels: Images of more pixels of colour, or of values that take as many bytes, are refused before memory is
            taken for them. None: the readers' own limit.
        backend: What computes an exported folder; None: PyTorch, in `dtype`.

    Raises:
        InputError: When there is no such network, or it has no preprocessing and none is given.
    """

    def __init__(
        self,
        source: Path | str | Backbone | Features,
        *,
        device: str | torch.device = "cpu",
        dtype: Dtype = "float32",
        batch_size: int = 32,
        pooling: Pooling | None = None,
        preprocessing: PreprocessingConfig | None = None,
        image_size: int | None = None,
        workers: int = 0,
        normalise: bool = False,
        max_pixels: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        if pooling is not None and pooling not in get_args(Pooling):
            raise InputError(f"There is no pooling {pooling!r}.", expected=", ".join(get_args(Pooling)))
        self.features = open_source(source, preprocessing, image_size, backend).to(device)
        self.preprocessing = self.features.preprocessing
        self.device = self.features.device
        self.dtype: Dtype = _fast(dtype, self.device)
        self.normalise = normalise
        self.max_pixels = max_pixels
        self._decode = partial(preprocess_bytes, max_pixels=max_pixels)
        self.batch_size = batch_size
        self.pooling: Pooling = pooling or self.features.pooling
        self.workers = workers
        self.stopwatch = Stopwatch()
        self.said_conversion = False  # whoever says it himself sets it

    @property
    def model(self) -> Backbone:
        """The backbone.

        Raises:
            InputError: When the network is another one.
        """
        if not isinstance(self.features, BackboneFeatures):
            description = self.features.description
            raise InputError(
                f"{description.address} is no backbone here: a program, or a network of another family.",
                found=description.family,
            )
        return self.features.model

    @property
    def identity(self) -> str:
        """Hash of all that makes its embeddings what they are: weights, preprocessing, pooling, length."""
        return identity_of(self.features.identity, self.preprocessing, self.pooling, normalise=self.normalise)

    @property
    def embed_dim(self) -> int:
        """Width of an embedding."""
        return pooled_dim(self.features.dim, self.pooling)

    def __call__(self, images: Sequence[bytes]) -> Floats:
        """Embed encoded images, ``[N, D]`` float32, in their order.

        Raises:
            DecodeError: When the bytes of an image are unusable.
            InputError: When the network gives what is no number.
        """
        return self._collect(images, self._decode)

    def embed_pixels(self, images: Sequence[Pixels]) -> Floats:
        """Embed decoded images, each ``[H, W]`` or ``[H, W, C]``: ``[N, D]`` float32.

        Grey becomes colour and colour grey as the network takes it; transparency is put on white.

        Raises:
            DecodeError: When an image has other channels, and no rule makes the network's of them.
        """
        return self._collect(images, preprocess)

    def each(self, images: Iterable[Encoded]) -> Iterator[Floats | InputError]:
        """Embed images of which some may be unusable: for each ``[D]`` float32, or why there is none, in their order.

        One that cannot be used spoils no other; nothing is computed twice. What opens an image is called where it is
        decoded: no more images are in memory than there are `workers`.
        """
        for batch in self.prepared_or_said(images):
            yield from self._batch_of_some(batch)

    def see(self, images: Iterable[Encoded], views: Sequence[View]) -> Iterator[dict[View, Any] | InputError]:
        """More of each image than its embedding, or why there is nothing, in their order.

        Args:
            images: As `each` takes them.
            views: Of each: ``embedding [E]``, ``cls [D]``, ``mean_patch [D]``, ``patches [rows, columns, D]``,
                ``scores`` (class: share), ``neighbours`` (curated images with where they came from), ``pca`` (a PNG).

        Raises:
            InputError: When a view is not to be had of this network.
        """
        yield from self.viewer.see(images, views)

    @cached_property
    def viewer(self) -> Viewer:
        """What shows more than embeddings."""
        from dinomill.serving.viewer import Viewer

        return Viewer(self)

    def prepared_or_said(self, images: Iterable[Encoded]) -> Iterator[list[Floats | InputError]]:
        """Batches of preprocessed images, in the place of an unusable one why it is."""
        with decoders(self.workers) as pool_:
            ready = self._prepared(images, self._prepare_or_say, pool_)
            while batch := list(islice(ready, self.batch_size)):
                yield batch

    def _prepare_or_say(self, image: Encoded, config: PreprocessingConfig) -> Floats | InputError:
        try:
            with self.stopwatch.on("decode"), image() if callable(image) else nullcontext(image) as data:
                return self._decode(data, config)
        except InputError as error:
            return error
        except Exception as error:  # decoders raise what they like on damaged files
            return DecodeError(Reason.CORRUPT, f"{type(error).__name__}: {error}")

    def _batch_of_some(self, batch: list[Floats | InputError]) -> Iterator[Floats | InputError]:
        good = [item for item in batch if not isinstance(item, InputError)]
        vectors = iter(self._embed_some(good))
        for item in batch:
            vector = item if isinstance(item, InputError) else next(vectors)
            if not isinstance(vector, InputError) and not np.isfinite(vector).all():
                vector = not_finite(self.features.description.address, 1)
            yield vector

    def _embed_some(self, inputs: list[Floats]) -> list[Floats | InputError]:
        """Embeddings of preprocessed images; one with which the network fails does so alone."""
        if not inputs:
            return []
        try:
            with self.stopwatch.on("compute"):
                return list(self.embed_batch(torch.from_numpy(np.stack(inputs))).cpu().numpy())
        except Exception as error:  # memory above all: a batch may take more than there is, one image rarely does
            if not isinstance(error, InputError):
                log.warning("the network failed with %d images", len(inputs), exc_info=True)
            failure = network_failed(error)
        return [failure] if len(inputs) == 1 else [found for one in inputs for found in self._embed_some([one])]

    def stream(self, images: Iterable[bytes]) -> Iterator[Floats]:
        """Embed any number of encoded images, a batch ``[<= batch_size, D]`` at a time."""
        return self._batches(images, self._decode)

    @torch.inference_mode()
    def embed_batch(self, batch: Tensor) -> Tensor:
        """Embed a preprocessed batch ``[B, C, H, W]``: ``[B, D]`` float32, on the predictor's device.

        Raises:
            InputError: When the batch has other axes or channels than the network takes.
        """
        return self.tokens_of(batch)[1]

    @torch.inference_mode()
    def tokens_of(self, batch: Tensor) -> tuple[Tokens, Tensor]:
        """Tokens and embeddings of a preprocessed batch, as `embed_batch`."""
        self.features.require_fit(batch)
        batch = batch.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            tokens = self.features(batch)
            vectors = tokens.pooled(self.pooling).float()
        return tokens, torch.nn.functional.normalize(vectors, dim=-1) if self.normalise else vectors

    def _collect(self, images: Sequence[Item], prepare: Callable[[Item, PreprocessingConfig], Floats]) -> Floats:
        batches = list(self._batches(images, prepare))
        return np.concatenate(batches) if batches else np.empty((0, self.embed_dim), np.float32)

    def _batches(
        self, images: Iterable[Item], prepare: Callable[[Item, PreprocessingConfig], Floats]
    ) -> Iterator[Floats]:
        with decoders(self.workers) as pool_:
            yield from self._forward(self._prepared(images, prepare, pool_))

    def _prepared(
        self,
        images: Iterable[Item],
        prepare: Callable[[Item, PreprocessingConfig], Made],
        pool_: ThreadPoolExecutor | None,
    ) -> Iterator[Made]:
        config = self.preprocessing
        images = map(self._say_once, images)
        if pool_ is None:
            return (prepare(image, config) for image in images)
        ready = ahead(images, lambda image: pool_.submit(prepare, image, config).result, 2 * self.batch_size)
        return (wait() for wait in ready)

    def _say_once(self, image: Item) -> Item:
        """Log it when the first image is of the other kind than the network takes: grey, or colour."""
        if not self.said_conversion:
            self.said_conversion = True
            own = channels_of(image) if isinstance(image, bytes | memoryview) else None
            said = conversion(own or self.preprocessing.channels, self.preprocessing.channels, None, "the network")
            if said:
                log.info(said)
        return image

    def _forward(self, inputs: Iterator[Floats]) -> Iterator[Floats]:
        while batch := list(islice(inputs, self.batch_size)):
            vectors = self.embed_batch(torch.from_numpy(np.stack(batch))).cpu().numpy()
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                raise not_finite(self.features.description.address, int((~finite).sum()))
            yield vectors


def _fast(dtype: Dtype, device: torch.device) -> Dtype:
    """The precision to compute in: half only where the hardware has it."""
    if dtype == "bfloat16" and device.type in ("cpu", "cuda") and not has_fast_bf16(device):
        log.warning("This %s has no products in bfloat16 and would imitate them slowly: float32 is used.", device.type)
        return "float32"
    return dtype
