"""Where a patch lies: resizing of a learned table to any grid, and axial rotary angles."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def resize_positions(table: Tensor, grid: tuple[int, int], *, offset: float, antialias: bool) -> Tensor:
    """Resize a square table of patch positions by bicubic interpolation, in fp32.

    Bicubic interpolation is linear and separable, so it is done as two small matrix products: the weights depend
    only on the sizes, the backward is a product too, and both compile and export without an interpolation kernel.

    Args:
        table: ``[M * M, D]``, row-major.
        grid: Rows and columns wanted.
        offset: The published models without registers were trained with a scale factor of ``(side + 0.1) / M``; 0 means
            that the sampling positions follow from the sizes alone, as in the models with registers.
        antialias: Widen the kernel when the grid is smaller than the table (the models with registers do).

    Returns:
        ``[grid[0] * grid[1], D]`` in fp32.
    """
    side = math.isqrt(table.shape[0])
    if (side, side) == grid:
        return table.float()
    rows, columns = (_weights(side, size, offset, antialias, table.device) for size in grid)
    # Under autocast these products would be done in bf16, which is too coarse for positions.
    with torch.autocast(table.device.type, enabled=False):
        square = table.float().view(side, side, -1)
        wide = torch.matmul(columns, square)  # [M, w, D]
        return torch.matmul(rows, wide.flatten(1)).view(grid[0] * grid[1], -1)


def _weights(old: int, new: int, offset: float, antialias: bool, device: torch.device) -> Tensor:
    # torch.export and torch.compile trace with tensors that hold no data: those must not enter the cache.
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return torch.tensor(bicubic_weights(old, new, offset, antialias).tolist(), device=device)
    return _cached_weights(old, new, offset, antialias, device)


@lru_cache(maxsize=256)
def _cached_weights(old: int, new: int, offset: float, antialias: bool, device: torch.device) -> Tensor:
    return torch.from_numpy(bicubic_weights(old, new, offset, antialias)).to(device)


def bicubic_weights(old: int, new: int, offset: float, antialias: bool) -> npt.NDArray[np.float32]:
    """The matrix ``[new, old]`` that resizes a line of ``old`` samples to ``new`` (half-pixel centres).

    The kernel is Keys' cubic with a = -0.75, and with a = -0.5 where it is widened against aliasing: the two choices of
    PyTorch's and Pillow's resizers. At the borders the outermost sample is repeated; a widened kernel is cut off there
    and renormalised.
    """
    scale = old / (new + offset)
    centres = (np.arange(new, dtype=np.float64) + 0.5) * scale
    weights = np.zeros((new, old))
    if antialias:
        width = max(scale, 1.0)
        for row, centre in enumerate(centres):
            first = max(int(centre - 2 * width + 0.5), 0)
            last = min(int(centre + 2 * width + 0.5), old)
            taps = _cubic((np.arange(first, last) + 0.5 - centre) / width, -0.5)
            weights[row, first:last] = taps / taps.sum()
    else:
        for row, position in enumerate(centres - 0.5):
            nearest = math.floor(position)
            for tap in range(nearest - 1, nearest + 3):
                weights[row, min(max(tap, 0), old - 1)] += _cubic(np.array(tap - position), -0.75)
    return weights.astype(np.float32)


def _cubic(x: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def rotary_angles(grid: tuple[int, int], head_dim: int, base: float, device: torch.device) -> Tensor:
    """Axial rotary angles of a grid of patches, ``[rows * columns, head_dim / 2]`` in fp32.

    Coordinates run from -1 to 1 on each side, whatever the grid, so that a model keeps its sense of place at another
    resolution. Half of the angles turn with the row, half with the column, with periods from 1 to ``base``.
    """
    periods = base ** (torch.arange(head_dim // 4, device=device, dtype=torch.float32) / (head_dim // 4))
    frequencies = 2 * math.pi / periods
    rows, columns = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) * (2 / n) - 1 for n in grid)
    angles = torch.cat(
        [
            (rows[:, None] * frequencies)[:, None].expand(grid[0], grid[1], -1),
            (columns[:, None] * frequencies)[None].expand(grid[0], grid[1], -1),
        ],
        dim=-1,
    )
    return angles.reshape(grid[0] * grid[1], head_dim // 2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the patch part of queries or keys by their angles; tokens before the patches have no place and stay.

    Args:
        x: ``[..., N, head_dim]``; the last ``angles.shape[0]`` tokens are patches.
        angles: ``[N_patches, head_dim / 2]``.
    """
    prefix, patches = torch.split(x, [x.shape[-2] - angles.shape[0], angles.shape[0]], dim=-2)
    first, second = patches.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([prefix, turned.to(x.dtype)], dim=-2)
