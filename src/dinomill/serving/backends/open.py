"""Open a backbone for a backend: its weights with PyTorch, or the program beside them with another runtime."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinomill.errors import InputError
from dinomill.features.backbone import BackboneFeatures
from dinomill.features.base import Features, Tokens
from dinomill.features.door import open as open_features
from dinomill.serving.backends.choice import Backend, why_not

log = logging.getLogger(__name__)


def open_backend(folder: Path, backend: Backend, *, threads: int = 1, programs: Path | None = None) -> Features:
    """The network of an exported backbone, as a backend runs it, at the image size of its preprocessing.

    Args:
        folder: Of the exported backbone.
        backend: Which.
        threads: Of the CPU.
        programs: Where its program lies; by default in the folder.

    Raises:
        InputError: When the program is not there, or cannot be run here.
    """
    refused = why_not(backend)
    if refused is not None:
        raise InputError(
            f"The backend {backend} cannot be used on this machine.",
            found=refused,
            action="install it, choose another one (packaging.backend), or package again on such a machine",
        )
    if backend.file is None:
        found = open_features(folder)
        assert isinstance(found, BackboneFeatures)
        if backend.runtime == "compiled":
            return CompiledFeatures(found, backend)
        return HalfFeatures(found) if backend.precision == "bfloat16" else found
    place = (programs or folder) / backend.file
    if not place.is_file():
        raise InputError(f"{folder} has no {backend.file} for the backend {backend}.", action="package the model again")
    address = str(folder)
    # Imported where they are needed: an archive carries one of them, or none.
    if backend.runtime == "onnxruntime":
        from dinomill.features.onnx import open_onnx

        program: Features = open_onnx(address, place, None, threads=threads, fixed=True)
    else:
        from dinomill.features.openvino import open_openvino

        half = backend.precision != "float32"
        program = open_openvino(address, place, None, threads=threads, fixed=True, half=half)
    told = program.description
    program.description = replace(told, family=f"{told.family} {backend.precision}")
    return program


class HalfFeatures(BackboneFeatures):
    """A backbone whose products are in bfloat16; its tokens are float32.

    Args:
        found: The backbone.
    """

    def __init__(self, found: BackboneFeatures) -> None:
        super().__init__(found.description, found.model)

    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of ``[B, C, H, W]``."""
        with torch.autocast(self.device.type, torch.bfloat16):
            seen = super().__call__(batch)
        return Tokens(seen.cls.float(), seen.mean_patch.float(), None if seen.patches is None else seen.patches.float())


class CompiledFeatures(HalfFeatures):
    """The same through torch.compile, in one precision.

    Args:
        found: The backbone.
        backend: Of which the precision counts.
    """

    def __init__(self, found: BackboneFeatures, backend: Backend) -> None:
        super().__init__(found)
        self._half = backend.precision == "bfloat16"
        self._compiled: Any = torch.compile(self._tokens, dynamic=True)

    def _tokens(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model.forward_features(batch)
        return outputs["x_norm_clstoken"].float(), outputs["x_norm_patchtokens"].float()

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of ``[B, C, H, W]``."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            cls, patches = self._compiled(batch)
        return Tokens(cls, patches.mean(dim=1), patches)
