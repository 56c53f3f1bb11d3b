"""Where a patch lies: resizing of a learned table to any grid, and axial rotary angles."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dinomill.models.hardware import autocast


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
    free = any(_is_free(size) for size in grid)
    if free:
        rows, columns = _weights_of_any(side, grid, offset=offset, antialias=antialias)
    elif (side, side) == grid:
        return table.float()
    else:
        # Tracing (torch.compile, torch.export) takes the computation into its graph; data-less tensors must not be
        # cached.
        weights = bicubic_weights if torch.compiler.is_compiling() else _cached_weights
        rows, columns = (weights(side, size, offset, antialias, table.device) for size in grid)
    # Under autocast these products would be done in bf16, which is too coarse for positions. A program for any size is
    # plain fp32, and its graph holds operations alone.
    with nullcontext() if free else autocast(table.device):
        square = table.float().view(side, side, -1)
        wide = torch.matmul(columns, square)  # [M, w, D]
        return torch.matmul(rows, wide.flatten(1)).view(grid[0] * grid[1], -1)


def bicubic_weights(old: int, new: int, offset: float, antialias: bool, device: torch.device) -> Tensor:
    """The matrix ``[new, old]`` that resizes a line of ``old`` samples to ``new`` (half-pixel centres), fp32.

    The kernel is Keys' cubic with a = -0.75, and with a = -0.5 where it is widened against aliasing: the two choices of
    PyTorch's and Pillow's resizers. At the borders the outermost sample is repeated; a widened kernel is cut off there
    and renormalised.
    """
    if antialias and new == old:
        return torch.eye(
            old, device=device
        )  # PyTorch's smoothing resizer leaves such a side alone, whatever the offset
    # In fp64: where a sample falls exactly between two others, fp32 may take the wrong neighbours. MPS has no fp64.
    place = torch.device("cpu") if device.type == "mps" else device
    return _bicubic(old, new, old / (new + offset), antialias, place).to(device, torch.float32)


def _bicubic(old: int, new: int, scale: float | Tensor, antialias: bool, place: torch.device) -> Tensor:
    """The same in fp64, from the distance of two samples in the old line."""
    samples = torch.arange(old, dtype=torch.float64, device=place)
    centres = (torch.arange(new, dtype=torch.float64, device=place) + 0.5) * scale
    if antialias:
        width = scale.clamp(min=1.0) if isinstance(scale, Tensor) else max(scale, 1.0)
        weights = _cubic((samples + 0.5 - centres[:, None]) / width, -0.5)
        weights = weights / weights.sum(dim=1, keepdim=True)
    else:
        positions = centres - 0.5
        weights = torch.zeros(new, old, dtype=torch.float64, device=place)
        for tap in range(-1, 3):
            neighbours = positions.floor() + tap
            reached = (neighbours.clamp(0, old - 1)[:, None] == samples).double()
            weights = weights + reached * _cubic(neighbours - positions, -0.75)[:, None]
    return weights


def _weights_of_any(side: int, grid: tuple[int, int], *, offset: float, antialias: bool) -> tuple[Tensor, Tensor]:
    """The two matrices in a program for any grid: the choice of the table itself is made when it runs.

    What is computed of a size is computed in tensors: not every runtime has arithmetic beside them.
    """
    cpu = torch.device("cpu")
    same = [_number(size) == side for size in grid]
    if not antialias:
        same = 2 * [same[0] & same[1]]
    found = []
    for size, kept in zip(grid, same, strict=True):
        resized = _bicubic(side, size, side / (_number(size).double() + offset), antialias, cpu).float()
        itself = (torch.arange(size)[:, None] == torch.arange(side)).float()
        found.append(torch.where(kept, itself, resized))
    return found[0], found[1]


def _is_free(size: Any) -> bool:
    """Whether a size is left open by torch.export; torch.compile guards against others by itself."""
    free: bool = isinstance(size, torch.SymInt)  # which is no int, though it stands for one
    return free and not torch.compiler.is_dynamo_compiling()


def _number(size: int) -> Tensor:
    return torch.scalar_tensor(size, dtype=torch.float32)


@lru_cache(maxsize=256)
def _cached_weights(old: int, new: int, offset: float, antialias: bool, device: torch.device) -> Tensor:
    # A tensor made in inference mode could not be kept for a backward pass: one embedding would spoil a later training.
    with torch.inference_mode(False), torch.no_grad():
        return bicubic_weights(old, new, offset, antialias, device)


def _cubic(x: Tensor, a: float) -> Tensor:
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def rope_periods(head_dim: int, base: float, device: torch.device | None = None) -> Tensor:
    """The periods of the rotary angles, ``[head_dim / 4]`` in fp32: from 1 to ``base``."""
    return base ** (torch.arange(head_dim // 4, device=device, dtype=torch.float32) / (head_dim // 4))


def rotary_angles(
    grid: tuple[int, int], head_dim: int, base: float, device: torch.device, *, rounded: bool = False
) -> Tensor:
    """Axial rotary angles of a grid of patches, ``[rows * columns, head_dim / 2]`` in fp32.

    Coordinates run from -1 to 1 on each side, whatever the grid, so that a model keeps its sense of place at another
    resolution. Half of the angles turn with the row, half with the column, with periods from 1 to ``base``; `rounded`
    to bfloat16 for weights that were trained so.
    """
    periods = rope_periods(head_dim, base, device)
    if rounded:
        periods = periods.bfloat16().float()
    frequencies = 2 * math.pi / periods
    rows, columns = (
        (torch.arange(n, device=device, dtype=torch.float32) + 0.5) * (2 / (_number(n) if _is_free(n) else n)) - 1
        for n in grid
    )
    angles = torch.cat(
        [
            (rows[:, None] * frequencies)[:, None].expand(grid[0], grid[1], -1),
            (columns[:, None] * frequencies)[None].expand(grid[0], grid[1], -1),
        ],
        dim=-1,
    )
    return angles.reshape(grid[0] * grid[1], head_dim // 2)


def turns(angles: Tensor) -> Tensor:
    """Cosine and sine of angles ``[N, d]``, ``[2, N, d]``: worked out once for all blocks."""
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the patch part of queries or keys by their angles; tokens before the patches have no place and stay.

    Args:
        x: ``[..., N, head_dim]``; the last ``N_patches`` tokens are patches.
        turn: ``[2, N_patches, head_dim / 2]``, from ``turns``.
    """
    count = turn.shape[1]
    prefix, patches = torch.split(x, [x.shape[-2] - count, count], dim=-2)
    first, second = patches.float().chunk(2, dim=-1)
    cos, sin = turn.unbind(0)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([prefix, turned.to(x.dtype)], dim=-2)
