"""A backbone of ours or of a known family as features: a vision transformer or a ConvNeXt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from dinomill.features.base import Description, Features, Tokens
from dinomill.features.licence import licence_of, made_from_of, origin_of
from dinomill.features.preprocessing import at_size, preprocessing_of, says_itself
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models.backbones import Backbone
from dinomill.models.loading import OURS, Weights, read_weights
from dinomill.models.vision_transformer import VisionTransformer


class BackboneFeatures(Features):
    """A backbone of any family.

    Args:
        description: What it is.
        model: The network, which is put into evaluation mode.
    """

    def __init__(self, description: Description, model: Backbone) -> None:
        super().__init__(description)
        at_size(  # the patches fit
            description.preprocessing,
            description.preprocessing.image_size,
            patch=model.patch_size,
            where=description.address,
        )
        self.model = model.eval()

    @property
    def grid(self) -> int:
        """Patches, or places of the last map, a side."""
        return self.preprocessing.image_size // self.model.patch_size

    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of ``[B, C, H, W]``."""
        outputs = self.model.forward_features(batch)
        patches = outputs["x_norm_patchtokens"]
        return Tokens(outputs["x_norm_clstoken"], patches.mean(dim=1), patches)

    def blocks(self, batch: Tensor, count: int) -> tuple[Tokens, ...]:
        """Tokens of the last blocks of ``[B, C, H, W]``, as DINOv2's evaluations take them.

        Of a ConvNeXt those of its last map alone: earlier stages have other widths and finer grids.
        """
        if not isinstance(self.model, VisionTransformer):
            return (self(batch),)
        layers = self.model.get_intermediate_layers(batch, min(count, self.model.n_blocks), return_class_token=True)
        return tuple(Tokens(cls, patches.mean(dim=1), patches) for patches, cls in layers)

    def to(self, device: torch.device | str) -> Self:
        """Move the network."""
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    def double(self) -> Self:
        """Compute in float64."""
        self.model.double()
        return self


def describe_model(model: Backbone, preprocessing: PreprocessingConfig) -> Description:
    """What a model in memory is; it lies nowhere."""
    return Description(
        address="a model in memory",
        place=Path(),
        family=OURS,
        model=model.config,
        preprocessing=preprocessing,
        pooling=model.config.pooling,
        dim=model.embed_dim,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        paths=(),
        trained_so=True,
    )


def describe_weights(
    address: str, place: Path, preprocessing: PreprocessingConfig | None, *, shapes_only: bool, **keywords: Any
) -> tuple[Description, Weights]:
    """What a file or folder of a backbone's weights holds.

    Raises:
        InputError: Says what it is instead.
    """
    weights = read_weights(place, shapes_only=shapes_only, **keywords)
    told = preprocessing is None and says_itself(weights)
    description = Description(
        address=address,
        place=weights.place,
        family=weights.family,
        model=weights.config,
        preprocessing=preprocessing or preprocessing_of(weights),
        pooling=weights.config.pooling,
        dim=weights.config.embed_dim,
        parameters=sum(tensor.numel() for tensor in weights.tensors.values()),
        paths=weights.paths,
        licence=licence_of(weights),
        origin=origin_of(weights),
        trained_so=told,
        made_from=made_from_of(weights),
    )
    return description, weights
