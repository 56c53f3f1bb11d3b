"""What the adapters of exported programs share: the description that our exports carry, and arrays to tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from dinomill.errors import InputError
from dinomill.features.base import Description, Tokens, require_channels
from dinomill.features.licence import LICENCE, ORIGIN, licence_told
from dinomill.features.preprocessing import at_size
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models.config import Pooling
from dinomill.models.made_from import MADE_FROM, MadeFrom
from dinomill.storage.writable import printable

POOLING, PATCH = "pooling", "patch_size"
OUTPUTS = ["cls_token", "patch_tokens"]  # of our exports


def describe_program(
    address: str,
    place: Path,
    *,
    family: str,
    told: Mapping[str, str],
    input_shape: Sequence[Any],
    dim: int,
    parameters: int,
    paths: tuple[Path, ...],
    preprocessing: PreprocessingConfig | None,
    image_size: int | None,
) -> Description:
    """What a program holds: as our exports say, or ImageNet's usual preprocessing at the size that it takes.

    Raises:
        InputError: When what it says of itself cannot be read, or the preprocessing has another size or other channels.
    """
    side = input_shape[-1] if isinstance(input_shape[-1], int) and input_shape[-1] > 0 else None
    own = _told(told[SECTION], place) if SECTION in told else _usual(side, input_shape[1])
    settings = preprocessing or own
    if image_size is not None:
        patch = told.get(PATCH, "")
        settings = at_size(settings, image_size, patch=int(patch) if patch.isdecimal() else None, where=address)
    channels = input_shape[1]
    if isinstance(channels, int) and channels > 0:
        require_channels(address, channels, settings)
    if side is not None and settings.image_size != side:
        raise InputError(
            f"{place} takes images of {side} pixels.",
            found=f"an image size of {settings.image_size}",
            action="leave the image size out: a program is made for one size",
        )
    pooling = told.get(POOLING, "cls")
    if pooling not in get_args(Pooling):
        raise InputError(
            f"{place} does not say how its tokens become an embedding.",
            found=f"{POOLING} {printable(pooling[:60])!r}",
            expected=", ".join(get_args(Pooling)),
            action="copy or export it again",
        )
    return Description(
        address=address,
        place=place,
        family=family,
        model=None,
        preprocessing=settings,
        pooling=pooling,  # type: ignore[arg-type]
        dim=dim,
        parameters=parameters,
        paths=paths,
        licence=licence_told(told.get(LICENCE)),
        origin=told.get(ORIGIN),
        trained_so=SECTION in told and preprocessing is None,
        made_from=MadeFrom.parse(told.get(MADE_FROM)),
    )


def tokens(names: Sequence[str], arrays: Sequence[np.ndarray[Any, Any]]) -> Tokens:
    """Tokens of a program's outputs: those of our exports by name, else the first output, averaged over its places."""
    first = torch.from_numpy(np.asarray(arrays[0], dtype=np.float32))
    if list(names[:2]) == OUTPUTS:
        patches = torch.from_numpy(np.asarray(arrays[1], dtype=np.float32))
        return Tokens(first, patches.mean(dim=1), patches)
    if first.ndim == 2:
        return Tokens(first, first, None)
    places = first.flatten(2).mT if first.ndim == 4 else first
    mean = first.numpy().mean(axis=(2, 3) if first.ndim == 4 else 1)
    return Tokens(torch.from_numpy(mean), torch.from_numpy(mean), places)


def _usual(side: int | None, channels: Any) -> PreprocessingConfig:
    size = side or 224
    count = channels if isinstance(channels, int) and channels > 0 else 3
    if count == 3:
        return PreprocessingConfig(image_size=size, resize=size)
    return PreprocessingConfig.square(size, [0.5] * count, [0.25] * count)


def _told(text: str, place: Path) -> PreprocessingConfig:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} describes no preprocessing.", found=str(error)) from None
    return PreprocessingConfig.parse(values, where=str(place))
