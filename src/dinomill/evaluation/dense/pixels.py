"""Raw pixels as places: the baseline of segmentation and depth."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dinomill.features.base import Tokens

# The raw pixels' places: a cell of a 28th of the side, seen with its neighbours, averaged to at most 6 x 6.
_PIXEL_CELLS, _PIXEL_SIDE, _PIXEL_LAYOUT = 28, 6, 4


def pixel_grid(batch: Tensor) -> Tokens:
    """What raw pixels say of places: each cell of an image with its neighbourhood, and a coarse image as class token.

    Args:
        batch: ``[B, C, S, S]``, normalised.
    """
    side = batch.shape[-1]
    cell = max(side // _PIXEL_CELLS, 1)
    window = 3 * cell
    padded = functional.pad(batch, (cell,) * 4, mode="replicate" if cell < side else "constant")
    grid = (side + 2 * cell - window) // cell + 1
    around = functional.unfold(padded, window, stride=cell)  # [B, C window², grid²]
    pieces = around.mT.reshape(-1, batch.shape[1], window, window)
    if window > _PIXEL_SIDE:
        pieces = functional.adaptive_avg_pool2d(pieces, _PIXEL_SIDE)
    patches = pieces.flatten(1).view(len(batch), grid * grid, -1)
    # As wide as a place, so that both fit into one array: the coarse image, and zeros.
    coarse = functional.adaptive_avg_pool2d(batch, min(_PIXEL_LAYOUT, side)).flatten(1)[:, : patches.shape[2]]
    cls = functional.pad(coarse, (0, patches.shape[2] - coarse.shape[1]))
    return Tokens(cls, patches.mean(dim=1), patches)
