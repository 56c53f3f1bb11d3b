"""The backbone as a program: tensors in, a tuple of tensors out, for any number and any size of images.

images        [batch, channels, height, width]   float32, preprocessed; sides are multiples of the patch size, for a
                                                 ConvNeXt of at least two
cls_token     [batch, width of a token]          after the final norm
patch_tokens  [batch, patches, width]            row by row
embedding     [batch, embedding]                 what the model's pooling makes of both
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinomill.models.backbones import Backbone
from dinomill.models.convnext import ConvNeXt
from dinomill.models.pooling import pool

INPUT = "images"
OUTPUTS = ("cls_token", "patch_tokens", "embedding")
AXES = {
    INPUT: ("batch", None, "height", "width"),
    "cls_token": ("batch", None),
    "patch_tokens": ("batch", "patches", None),
    "embedding": ("batch", None),
}
_LARGEST_BATCH, _LARGEST_SIDE = 65_536, 4096


class Program(nn.Module):
    """A backbone with a tuple of tensors as its output, which every format can hold.

    Args:
        model: The backbone.
    """

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class tokens, patch tokens and embeddings of ``[B, C, H, W]``."""
        outputs = self.model.forward_features(images)
        embedding = pool(outputs, self.model.config.pooling)
        # An output of its own, also where it is the class token: OpenVINO has no two names for one, and sees through
        # a clone.
        return outputs["x_norm_clstoken"], outputs["x_norm_patchtokens"], embedding + 0.0


def least_patches(model: Backbone) -> int:
    """The fewest patches of a side: of a convolution's map of one row, torch cannot tell the order of the strides."""
    return 2 if isinstance(model, ConvNeXt) else 1


def trace(model: Backbone) -> ExportedProgram:
    """The program of a backbone with free batch, height and width."""
    patch = model.patch_size
    most = _LARGEST_SIDE // patch
    least = least_patches(model)
    sides = {2: patch * Dim("rows", min=least, max=most), 3: patch * Dim("columns", min=least, max=most)}
    # Sides that are neither one patch, nor equal, nor the native grid's: what is traced may be taken for a rule.
    images = torch.zeros(2, model.config.in_channels, 3 * patch, 5 * patch)
    with torch.no_grad():
        return torch.export.export(
            Program(model).eval(),
            (images,),
            dynamic_shapes={INPUT: {0: Dim("batch", max=_LARGEST_BATCH), **sides}},
        )
