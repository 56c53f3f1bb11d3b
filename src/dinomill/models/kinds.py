"""The families of backbones that are trained here, told apart by ``kind``; without one it is a vision transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from dinomill.config import tag
from dinomill.errors import ConfigError
from dinomill.models.config import VisionTransformerConfig
from dinomill.models.convnext_config import ConvNeXtConfig

ModelConfig = VisionTransformerConfig | ConvNeXtConfig

VIT, CONVNEXT = "vit", "convnext"
KINDS: dict[str, type[VisionTransformerConfig] | type[ConvNeXtConfig]] = {
    VIT: VisionTransformerConfig,
    CONVNEXT: ConvNeXtConfig,
}


def kind_of(values: Any) -> str:
    """The kind that a configuration states, as a mapping or parsed."""
    kind = values.get("kind", VIT) if isinstance(values, Mapping) else getattr(values, "kind", VIT)
    return str(kind)


# How a union of configurations, each with `tag(kind)`, is read; a configuration without a kind is a vision transformer.
BY_KIND = Discriminator(
    lambda values: tag(kind_of(values)),
    custom_error_type="unknown_kind",
    custom_error_message=f"kind is {' or '.join(KINDS)}",
)
# A field of any family.
AnyModel = Annotated[
    Annotated[VisionTransformerConfig, Tag(tag(VIT))] | Annotated[ConvNeXtConfig, Tag(tag(CONVNEXT))], BY_KIND
]


def parse_model(values: Mapping[str, Any], *, where: str, prefix: str = "") -> ModelConfig:
    """The configuration of a backbone of any family.

    Args:
        values: As ``config.json`` or a file's header has it.
        where: What it was read from, for messages.
        prefix: The dotted key that it has there.

    Raises:
        ConfigError: When it is not valid, or of a family that is not known here.
    """
    kind = kind_of(values)
    if kind not in KINDS:
        raise ConfigError(
            f"There is no network of the kind {kind!r} here.",
            found=f"{prefix}{'.' if prefix else ''}kind: {kind} in {where}",
            expected=" or ".join(KINDS),
        )
    return KINDS[kind].parse(values, where=where, prefix=prefix)
