"""The network of `dinomill embed --backend`: it is written once into the user's cache, and used from there.

$XDG_CACHE_HOME/dinomill/programs/<identity>/    an exported folder; of ONNX Runtime and OpenVINO the program, too
$XDG_CACHE_HOME/dinomill/programs/<identity>/sha256.json    of each file: written last, compared at every use
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinomill.commands.embed_in_8_bits import identity_of, made_with, seen_of, write_in_8_bits
from dinomill.commands.embed_sources import shown
from dinomill.errors import InputError, StorageError
from dinomill.storage.atomic import atomic_folder
from dinomill.storage.hashing import hash_file, hash_json
from dinomill.storage.user_cache import VARIABLE, told, user_cache

if TYPE_CHECKING:
    from dinomill.features.backbone import BackboneFeatures
    from dinomill.features.base import Features
    from dinomill.serving.backends.choice import Backend

_HASHES = "sha256.json"


def parse_backend(name: str) -> Backend:
    """A backend by its name, such as ``openvino-bfloat16``; without a precision it is float32.

    Raises:
        InputError: When there is none of that name.
    """
    from dinomill.serving.backends.choice import every_backend

    known = {_name(one): one for one in every_backend()}
    if name not in known:
        raise InputError(
            "There is no such backend.",
            found=f"--backend {name}",
            expected=", ".join(known),
            action="take one of these, or leave --backend out: PyTorch then computes in float32",
        )
    return known[name]


def _name(backend: Backend) -> str:
    return str(backend).replace(" float32", "").replace(" ", "-")


def open_with(
    address: str,
    backend: Backend,
    image_size: int | None,
    *,
    images: Callable[[], Sequence[bytes]] = tuple,
    made: str | None = None,
) -> Features:
    """A network as a backend computes it.

    Args:
        address: Of a backbone.
        backend: Which.
        image_size: Pixels, instead of its own.
        images: Gives encoded images, asked for where 8 bits are calibrated on them.
        made: The identity under which it made a file of embeddings: of 8 bits that program is taken, and no images.

    Raises:
        InputError: When it is no backbone, the backend cannot be used here, or its program of 8 bits is not here.
        MachineError: When the program does not repeat the network.
        StorageError: When the cache cannot be written.
    """
    import torch

    from dinomill import features
    from dinomill.features.backbone import BackboneFeatures
    from dinomill.serving.backends.choice import every_backend, why_not
    from dinomill.serving.backends.open import open_backend

    if (reason := why_not(backend)) is not None:
        raise InputError(
            f"The backend {_name(backend)} cannot be used on this machine.",
            found=reason,
            expected=", ".join(_name(one) for one in every_backend() if not why_not(one)),
            action="take one of these, or leave --backend out: PyTorch then computes in float32",
        )
    found = features.open(address, image_size=image_size)
    if not isinstance(found, BackboneFeatures):
        raise InputError(
            f"{address} runs in one way only.",
            found=found.description.family,
            expected="a backbone of dinomill's own, or weights of DINOv2 or DINOv3",
            action="leave --backend out",
        )
    identity = _identity(found, backend, images, made)
    folder = user_cache("programs") / identity[:32]
    program = open_backend(folder, backend, threads=torch.get_num_threads())
    # Two exports of one network need not have the same bytes; what they give may be compared all the same.
    program.description = replace(program.description, pooling=found.pooling, stands_for=identity)
    return program


def _identity(
    found: BackboneFeatures, backend: Backend, images: Callable[[], Sequence[bytes]], made: str | None
) -> str:
    """Of the program, which is in the cache then; of 8 bits it is said what they cost."""
    from dinomill.images.preprocess import SECTION
    from dinomill.models import save_backbone
    from dinomill.serving.backends.programs import write_programs

    programs = user_cache("programs")
    if backend.precision != "int8":
        identity = hash_json([found.identity, str(backend)])

        def write(temporary: Path) -> None:
            save_backbone(temporary, found.model, {SECTION: found.preprocessing.model_dump(mode="json")})
            write_programs(temporary, temporary, [backend], np.empty(0, np.float32))

        _require_program(programs / identity[:32], write)
        return identity
    if made is not None:
        identity = made_with(programs, made, found)
        if (damage := _damage(programs / identity[:32])) is not None:
            raise InputError(
                "The program of 8 bits that made these embeddings is not as it was written.",
                found=f"{shown(str(programs / identity[:32]))}: {damage}",
                action="embed the images again: the same images give the same program",
            )
    else:
        encoded = images()
        identity = identity_of(found.identity, backend, encoded)

        def write_calibrated(temporary: Path) -> None:
            save_backbone(temporary, found.model, {SECTION: found.preprocessing.model_dump(mode="json")})
            write_in_8_bits(temporary, found, backend, encoded, identity)

        _require_program(programs / identity[:32], write_calibrated)
    print(f"{_name(backend)}: {seen_of(programs / identity[:32])}", file=sys.stderr)
    return identity


def _require_program(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a program that is not there, or is no longer as it was written, and would change embeddings unsaid."""
    damage = _damage(folder)
    if damage is None:
        return
    _require_cache(folder.parent)
    if os.path.lexists(folder):
        print(f"{shown(str(folder))} is not used ({damage}): the program is written again", file=sys.stderr)
        if not folder.is_dir() or folder.is_symlink():
            folder.unlink()
    with atomic_folder(folder) as temporary:
        write(temporary)
        hashes = {path.relative_to(temporary).as_posix(): hash_file(path) for path in _files(temporary)}
        (temporary / _HASHES).write_text(json.dumps(hashes, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _damage(folder: Path) -> str | None:
    """Why what lies in a program's folder cannot be used, or None. 90 MB are compared in a tenth of a second."""
    try:
        written = json.loads((folder / _HASHES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"it has no {_HASHES} that can be read"
    if not isinstance(written, dict) or not written:
        return f"its {_HASHES} lists nothing"
    for name, sha256 in written.items():
        try:
            same = hash_file(folder / name) == sha256
        except OSError:
            return f"{name} is missing or cannot be read"
        if not same:
            return f"{name} is not as it was written"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _require_cache(place: Path) -> None:
    """Make the cache, or say which variable names another one: the export that follows takes long."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        named = told()
        raise StorageError(
            f"The cache of programs cannot be written: {shown(str(place))}: {error.strerror}.",
            found=f"{VARIABLE}={shown(named)}" if named else f"{VARIABLE} is not set to an absolute path: ~/.cache",
            expected="a folder that this user may write to, or nothing yet",
            action=f"set {VARIABLE} to such a folder, or leave --backend out",
        ) from None
