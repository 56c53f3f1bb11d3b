"""Does a configured model fit the weights that it is to start from? What the weights say is taken from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinomill.errors import ConfigError
from dinomill.models.address import locate
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.loading import read_weights

# What training may choose whatever the weights are: the grid (positions are resized to it), what an embedding is, how
# far coordinates are stretched, and the gain that a layer would have started with.
FREE = ("image_size", "pooling", "rope_rescale", "layerscale")


def model_from_weights(
    address: str | Path, chosen: Mapping[str, Any] | None = None, *, key: str = "pretraining.model"
) -> VisionTransformerConfig:
    """The model that weights imply, with what was chosen for it.

    Args:
        address: Of the weights; only their shapes are read.
        chosen: Fields that somebody set explicitly; None or empty for none.
        key: Where they were set, for messages.

    Raises:
        ConfigError: When a chosen field contradicts the weights; all that do are named.
        InputError: When the address holds no weights of a vision transformer.
    """
    return agree(read_weights(locate(address), shapes_only=True).config, chosen or {}, where=str(address), key=key)


def agree(
    weights: VisionTransformerConfig, chosen: Mapping[str, Any], *, where: str, key: str = "pretraining.model"
) -> VisionTransformerConfig:
    """The weights' configuration with the chosen fields, where those may be chosen.

    Args:
        weights: What the weights say.
        chosen: Fields that were set explicitly.
        where: The weights' address, for messages.
        key: Where the fields were set, for messages.

    Raises:
        ConfigError: When a field contradicts the weights; all that do are named.
    """
    known = VisionTransformerConfig.model_fields
    wrong = {name: value for name, value in chosen.items() if name in known and not _may_be(weights, name, value)}
    if wrong:
        raise ConfigError(
            f"{key} contradicts the weights in {where}.",
            found="; ".join(
                f"{key}.{name}: {value!r}, not {getattr(weights, name)!r}" for name, value in wrong.items()
            ),
            expected="the shape of the weights: their width, heads, depth, patches and positions cannot be chosen",
            action=f"leave {'these keys' if len(wrong) > 1 else 'this key'} out: they follow from the weights",
        )
    # Through a dump, so that values are validated and an unknown key is named.
    return VisionTransformerConfig.parse({**weights.model_dump(mode="json"), **chosen}, where=key)


def _may_be(weights: VisionTransformerConfig, name: str, value: Any) -> bool:
    own = getattr(weights, name)
    if name == "layerscale":
        return (value is None) == (own is None)
    if name == "registers" and own == 0:
        return True  # they say nothing about images: fresh ones may be added
    return name in FREE or bool(value == own)
