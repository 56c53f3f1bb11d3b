"""The network of `dinomill embed --backend`: its program is written once into the user's cache, and used from there.

$XDG_CACHE_HOME/dinomill/programs/<identity>/    an exported folder, and beside its weights model.onnx or model.xml
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinomill.errors import InputError
from dinomill.storage.atomic import atomic_folder
from dinomill.storage.hashing import hash_json

if TYPE_CHECKING:
    from dinomill.features.base import Features
    from dinomill.serving.backends.choice import Backend


def parse_backend(told: str) -> Backend:
    """A backend by its name, such as ``openvino-bfloat16``; without a precision it is float32.

    Raises:
        InputError: When there is none of that name, or it has to be calibrated first.
    """
    from dinomill.serving.backends.choice import every_backend

    usable = {str(one).replace(" float32", "").replace(" ", "-"): one for one in every_backend()}
    usable = {name: one for name, one in usable.items() if one.precision != "int8"}
    if told.endswith("int8"):
        raise InputError(
            "8 bits have to be calibrated on images of the kind that will be seen.",
            found=f"--backend {told}",
            expected=", ".join(usable),
            action="take one of these; or write a program (`dinomill export onnx-int8 FILE`), and give it as --model",
        )
    if told not in usable:
        raise InputError("There is no such backend.", found=f"--backend {told}", expected=", ".join(usable))
    return usable[told]


def open_with(address: str, backend: Backend, image_size: int | None) -> Features:
    """A network as a backend computes it.

    Args:
        address: Of a backbone.
        backend: Which.
        image_size: Pixels, instead of its own.

    Raises:
        InputError: When it is no backbone, or the backend cannot be used here.
        MachineError: When the program does not repeat the network.
    """
    import torch

    from dinomill import features
    from dinomill.features.backbone import BackboneFeatures
    from dinomill.images.preprocess import SECTION
    from dinomill.models import save_backbone
    from dinomill.serving.backends.choice import why_not
    from dinomill.serving.backends.open import open_backend
    from dinomill.serving.backends.programs import write_programs

    if (reason := why_not(backend)) is not None:
        raise InputError(
            f"The backend {backend} cannot be used on this machine.",
            found=reason,
            action="install it, or leave --backend out",
        )
    found = features.open(address, image_size=image_size)
    if not isinstance(found, BackboneFeatures):
        raise InputError(
            f"{address} is a program, or a network of another family, and runs in one way only.",
            found=found.description.family,
            action="leave --backend out",
        )
    identity = hash_json([found.identity, str(backend)])
    folder = _cache() / identity[:32]
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            save_backbone(temporary, found.model, {SECTION: found.preprocessing.model_dump(mode="json")})
            write_programs(temporary, temporary, [backend], np.empty(0, np.float32))
    program = open_backend(folder, backend, threads=torch.get_num_threads())
    # Two exports of one network need not have the same bytes; what they give may be compared all the same.
    program.description = replace(program.description, pooling=found.pooling, stands_for=identity)
    return program


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinomill" / "programs"
