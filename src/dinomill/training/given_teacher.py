"""A teacher of any kind that ``dinomill.features`` opens: it sees the global crops, and says what it sees.

It is no part of the module that is trained: nothing of it is sharded, compiled into checkpoints or moved. Each process
opens it for itself when it is first asked, and makes sure that it is the one that the run began with.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dinomill.errors import InputError
from dinomill.models.student import CropFeatures
from dinomill.training.given_weights import require_same
from dinomill.training.step_batch import StepBatch

if TYPE_CHECKING:
    from dinomill.features import Features
    from dinomill.training.job import TrainingJob


class GivenTeacher:
    """A frozen network with nothing but features.

    Args:
        address: Where it lies.
        sha256: Of its weights; another file is refused.
        size: Side in pixels at which it sees the global crops.
    """

    def __init__(self, address: str, sha256: str | None, size: int) -> None:
        self._address, self._sha256, self._size = address, sha256, size
        self._network: Features | None = None

    @classmethod
    def of(cls, job: TrainingJob) -> GivenTeacher:
        """A job's teacher."""
        assert job.teacher is not None and job.teaching is not None, "it is given"
        return cls(job.teacher, job.teacher_sha256, job.teaching.size)

    def open(self, device: torch.device) -> Features:
        """The network, on a device where it is torch's.

        Raises:
            InputError: When there is none, or another one than the run began with.
        """
        if self._network is None:
            from dinomill import features

            network = features.open(self._address, device=str(device), image_size=self._size)
            found = network.description.weights_sha256
            require_same(self._address, found, self._sha256)
            self._network = network
        return self._network

    @torch.no_grad()
    def see(self, batch: StepBatch) -> CropFeatures:
        """Features of a batch's global crops: those that came with it, or what the network makes of the crops."""
        if batch.taught_classes is not None and batch.taught_patches is not None:
            patches = batch.taught_patches
            return CropFeatures(batch.taught_classes.float(), patches.float(), square(patches.shape[1]))
        crops = batch.global_crops if batch.anchor_crops is None else batch.anchor_crops
        return self.features(crops)

    @torch.no_grad()
    def features(self, images: Tensor) -> CropFeatures:
        """Features of normalised images [N, C, H, W], in fp32, where the images are; of another size, resized first."""
        network = self.open(images.device)
        if images.shape[-1] != self._size:
            images = interpolate(images, size=(self._size, self._size), mode="bicubic", antialias=True)
        tokens = network(images.to(network.device))
        patches = tokens.cls[:, None] if tokens.patches is None else tokens.patches
        grid = square(patches.shape[1], self._address)
        return CropFeatures(tokens.cls.float().to(images.device), patches.float().to(images.device), grid)


def square(places: int, address: str = "the cache") -> tuple[int, int]:
    """The grid of so many places.

    Raises:
        InputError: When they are no square: among them are tokens that stand for no place.
    """
    side = math.isqrt(places)
    if side * side != places:
        raise InputError(
            f"What {address} gives of an image's places is no square of them.",
            found=f"{places} rows a crop",
            expected="a grid, such as 14 × 14",
            action="export the network with class token and patches apart (outputs cls_token and patch_tokens)",
        )
    return side, side
