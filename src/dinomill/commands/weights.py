"""`dinomill weights`: which released weights are known, and what a file, a folder or an address holds."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from dinomill.errors import InputError
from dinomill.storage.writable import printable

if TYPE_CHECKING:
    from dinomill.features import Description
    from dinomill.models.config import VisionTransformerConfig
    from dinomill.models.convnext_config import ConvNeXtConfig
    from dinomill.models.kinds import ModelConfig


def list_known() -> None:
    """Print the released weights that can be loaded, by family; nothing is downloaded."""
    from dinomill.models.known import known_weights

    groups = groupby(known_weights(), key=lambda known: (known.family, known.licence, known.where))
    for (family, licence, where), members in groups:
        print(f"{family} · {licence} · {where}")
        for known in members:
            digits = f"   sha256 {known.sha256_prefix}…" if known.sha256_prefix else ""
            print(f"  {known.name:<38} {known.parameters:>8,.1f} M parameters{digits}")
            print(f"      Hugging Face {known.huggingface}   timm {known.timm}")
        print()
    print("Get them there, under their licence; any form of them is read: .pth, .safetensors, a Hugging Face folder,")
    print("timm's names. Check what you have: dinomill weights FILE")


def check(address: str, image_size: int | None = None, *, env: str | None = None) -> None:
    """Print what an address holds: family, shape, preprocessing, licence, hash.

    Args:
        address: A file, a folder, ``models:/name@alias``, or another address of a network.
        image_size: Pixels, instead of the network's own.
        env: The environment whose registry ``models:/`` means.

    Raises:
        InputError: When it is no network that gives features: says what it is. When weights of it are no numbers.
    """
    from dinomill.features import describe
    from dinomill.tracking import store_at_work

    with store_at_work(env):
        found = describe(address, image_size=image_size)
    for name, text in rows(found):
        print(f"{name:<15} {printable(text)}")
    require_numbers(found)


def require_numbers(description: Description) -> None:
    """Refuse weights that are NaN or infinite: whatever they make of an image is the same.

    Raises:
        InputError: Naming the tensors; of a program, that its features are no numbers.
    """
    import torch

    broken: list[str] = []
    if description.model is not None:
        from dinomill.models.loading import read_weights

        tensors = read_weights(description.place).tensors
        broken = [name for name, one in tensors.items() if not bool(torch.isfinite(one).all())]
        found = f"{len(broken)} of {len(tensors)} tensors hold some: {', '.join(broken[:3])}{', …' * (len(broken) > 3)}"
    else:
        from dinomill.features import open as open_features

        seen, model = description.preprocessing, open_features(description.address)
        with torch.inference_mode():
            given = model(torch.zeros(1, seen.channels, seen.image_size, seen.image_size))
        broken = [] if bool(torch.isfinite(given.cls).all()) else ["features"]
        found = "features of a plain image that are no numbers"
    if broken:
        raise InputError(
            f"{description.address} holds weights that are NaN or infinite.",
            found=found,
            expected="finite numbers",
            action="copy the file again, or take a checkpoint of before the training went wrong",
        )


def rows(description: Description) -> list[tuple[str, str]]:
    """What is said of a network, line by line: a name and a text."""
    from dinomill.features.base import EFFICIENTNET

    settings = description.preprocessing
    usual = "usual for the family" + ("; --image-size changes it" if description.model is not None else "")
    said = "as the network was made" if description.trained_so else usual
    found = [("address", description.address)]
    if str(description.place) != description.address and description.address != EFFICIENTNET:
        found.append(("lies at", str(description.place)))
    found.append(("family", description.family))
    if description.model is not None:
        found += [*_released(description, description.model), *_shape(description.model)]
    if description.parameters:
        found.append(("parameters", f"{description.parameters:,}"))
    return [
        *found,
        ("embedding", f"{description.embed_dim} numbers ({description.pooling})"),
        ("image", f"{settings.image_size} pixels out of {settings.resize}: {said}"),
        ("mean, std", f"{_numbers(settings.mean)}; {_numbers(settings.std)}"),
        ("licence", _licence(description)),
        *([("origin", description.origin)] if description.origin and "released as" not in dict(found) else []),
        ("sha256", _hash(description)),
        *_made_from(description),
    ]


def _made_from(description: Description) -> list[tuple[str, str]]:
    """What an export says of the weights in it."""
    told = description.made_from
    if told is None:
        return []
    found = [
        ("version", f"models:/{told.registered}" if told.registered else None),
        ("run", told.run),
        ("dataset", told.dataset_sha256),
        ("exported by", f"dinomill {told.dinomill}" if told.dinomill else None),
    ]
    return [("of weights", told.weights_sha256), *((name, text) for name, text in found if text)]


def _licence(description: Description) -> str:
    from dinomill.models.known import OWN_LICENCE

    if description.licence is None:
        return "unknown: nothing in the file or beside it says it"
    own = description.licence == OWN_LICENCE
    return "own: trained from random weights alone" if own else description.licence


def _released(description: Description, config: ModelConfig) -> list[tuple[str, str]]:
    from dinomill.models.known import named

    known = named(description.place)
    if known is None:
        return []
    if not known.fits(config):
        return [("released as", f"not what its name says: {known.name} has {known.parameters:,.1f} M parameters")]
    return [("released as", f"{known.name}, by its name and shape")]


def _shape(config: ModelConfig) -> list[tuple[str, str]]:
    from dinomill.models.config import VisionTransformerConfig

    return _shape_of_vit(config) if isinstance(config, VisionTransformerConfig) else _shape_of_convnext(config)


def _shape_of_convnext(config: ConvNeXtConfig) -> list[tuple[str, str]]:
    stages = ", ".join(f"{depth} of {dim}" for dim, depth in zip(config.dims, config.depths, strict=True))
    return [
        ("shape", f"width {config.embed_dim}, {config.depth} convolutional blocks: {stages}"),
        ("places", f"of {config.patch_size} x {config.patch_size} pixels, a stem of {config.stem}{_channels(config)}"),
        ("norms", f"epsilon {config.norm_eps:g}"),
    ]


def _channels(config: ModelConfig) -> str:
    return "" if config.in_channels == 3 else f", {config.in_channels} channels"


def _shape_of_vit(config: VisionTransformerConfig) -> list[tuple[str, str]]:
    layers = {"mlp": "MLP", "swiglu": "SwiGLU"}[config.ffn]
    registers = f", {config.registers} registers" if config.registers else ""
    shape = f"width {config.embed_dim}, {config.depth} blocks of {config.num_heads} heads, {layers}{registers}"
    if config.position == "rope":
        rounded = ", periods rounded to bfloat16" if config.rope_periods == "bfloat16" else ""
        position = f"rotary, base {config.rope_base:g}{rounded}"
    else:
        smoothed = ", smoothed when reduced" if config.interpolate_antialias else ""
        position = f"table of {config.grid} x {config.grid} ({config.image_size} pixels), resized with an offset of "
        position += f"{config.interpolate_offset:g}{smoothed}"
    return [
        ("shape", shape),
        ("patches", f"{config.patch_size} x {config.patch_size} pixels{_channels(config)}"),
        ("positions", position),
        ("norms", f"epsilon {config.norm_eps:g}" + (", one for class tokens" if config.cls_norm else "")),
    ]


def _hash(description: Description) -> str:
    """The hash, held against the digits that an official file bears in its name."""
    from dinomill.models.known import named

    digest = description.weights_sha256
    known = named(description.place)
    # Only the official file itself bears them: the same weights in another form have another hash.
    if known is None or not known.sha256_prefix or known.sha256_prefix not in Path(description.place).name:
        return digest
    fits = digest.startswith(known.sha256_prefix)
    return f"{digest} " + ("(as its name says)" if fits else f"(its name says {known.sha256_prefix}…: another file)")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
