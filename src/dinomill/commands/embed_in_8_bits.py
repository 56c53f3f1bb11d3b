"""The programs of `dinomill embed --backend openvino-int8`: calibrated on images, and compared with the network there.

<program's folder>/calibration.json    of which network, on how many images, and what was seen: see `Seen`
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dinomill.commands.project import result
from dinomill.errors import DinomillError, InputError, MachineError
from dinomill.storage.hashing import hash_bytes, hash_json
from dinomill.storage.writable import printable

if TYPE_CHECKING:
    from dinomill.features.backbone import BackboneFeatures
    from dinomill.serving.backends.choice import Backend

_NAME = "calibration.json"
_LEAST_COSINE = 0.98  # of the worst image: what it is, is said each time


class Seen(NamedTuple):
    """What a program of 8 bits was made of, and how near it is to its network."""

    identity: str  # of the program
    network: str  # the network's
    images: int
    cosine: float  # of the worst image
    neighbours: float  # share of the ten nearest neighbours that are the network's

    def __str__(self) -> str:
        return (
            f"on {self.images} images the worst cosine with the network's own embedding is {self.cosine:.3f}, "
            f"and {self.neighbours:.0%} of the ten nearest neighbours are the same"
        )


def calibrated_on(place: Path | None, env: str | None) -> list[bytes]:
    """Encoded images that 8 bits are calibrated on.

    Args:
        place: A folder of images, or a curated dataset's; None: the curated dataset of the project.
        env: Its environment.

    Raises:
        InputError: When there are none.
    """
    from dinomill.export.calibration import read_calibration

    if place is None:
        with suppress(DinomillError):
            place = result("curated", env)
    if place is None:
        raise InputError(
            "8 bits have to be calibrated on images of the kind that will be seen.",
            found="no images, and no curated dataset here",
            expected="some 64 to 128 images; backends such as openvino-bfloat16 need none",
            action="name a folder of them: --calibration FOLDER; it may be the one that is embedded",
        )
    return read_calibration(place)


def identity_of(network: str, backend: Backend, images: Sequence[bytes]) -> str:
    """Other images give other embeddings: they count as another network."""
    return hash_json([network, str(backend), [hash_bytes(image) for image in images]])


def write_in_8_bits(
    folder: Path, found: BackboneFeatures, backend: Backend, encoded: Sequence[bytes], identity: str
) -> None:
    """Write the program beside its backbone, and what was seen of it.

    Args:
        folder: Of the exported backbone.
        found: The same.
        backend: Which.
        encoded: The images: every other one says the ranges, and all of them what is lost.
        identity: Of the program, see `identity_of`.

    Raises:
        InputError: When too few images can be used.
        MachineError: When it is not near enough to the network.
    """
    from dinomill.export.calibration import calibration_images
    from dinomill.serving.backends.open import open_backend
    from dinomill.serving.backends.programs import embed_all, write_programs
    from dinomill.serving.backends.select import agreement

    images = calibration_images(encoded, found.preprocessing)
    assert images is not None
    write_programs(folder, folder, [backend], images[::2])
    for file in folder.glob("model.onnx*"):  # it was made from these
        file.unlink()
    vectors = embed_all(open_backend(folder, backend, threads=1), images)
    seen = Seen(identity, found.identity, len(images), *agreement(vectors, embed_all(found, images)))
    if not seen.cosine >= _LEAST_COSINE:
        raise MachineError(
            "In 8 bits this network is not near enough to itself.",
            found=f"a cosine of {seen.cosine:.3f} for the worst of {seen.images} images",
            expected=f"at least {_LEAST_COSINE}",
            action="give more images, of the kind that will be seen (--calibration), or take openvino-bfloat16",
        )
    (folder / _NAME).write_text(json.dumps(seen._asdict()) + "\n", encoding="utf-8")


def seen_of(folder: Path) -> Seen:
    """What was seen of a program that is as it was written."""
    return Seen(**json.loads((folder / _NAME).read_text(encoding="utf-8")))


def made_with(programs: Path, made: str, found: BackboneFeatures) -> str:
    """The identity of the program that made a file of embeddings; nothing could make it again without its images.

    Args:
        programs: Where programs lie.
        made: The identity that stands in the file.
        found: The network.

    Raises:
        InputError: When it is not here, or is not of this network.
    """
    from dinomill.serving.predictor import identity_of as identity_of_embeddings

    for path in sorted(programs.glob(f"*/{_NAME}")):
        with suppress(OSError, ValueError, TypeError):
            seen = seen_of(path.parent)
            if seen.network == found.identity and made == identity_of_embeddings(
                seen.identity, found.preprocessing, found.pooling
            ):
                return seen.identity
    raise InputError(
        "The program of 8 bits that made these embeddings is not on this machine.",
        found=f"none of {found.description.address} in {printable(programs)} is it",
        action="search where they were made, with the same --model, or embed the images again here",
    )
