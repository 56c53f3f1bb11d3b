"""Patch features as colours, so that people see what they tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Pixels


def colour_patches(tokens: npt.NDArray[Any]) -> tuple[Pixels, float]:
    """The three strongest principal components of all patches as red, green and blue.

    Patches that mean the same have the same colour, across images too (Oquab et al. 2023, figure 1).

    Args:
        tokens: ``[M, h, w, D]``.

    Returns:
        ``[M, h, w, 3]`` uint8, and the share of the variance that the three hold.
    """
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    values, vectors = np.linalg.eigh(flat.T @ flat)
    components = flat @ vectors[:, ::-1][:, :3]
    # A component's sign is arbitrary; fixing it by its skew keeps colours alike from run to run.
    components *= np.where((components**3).sum(axis=0) < 0, -1, 1)
    low, high = np.percentile(components, [2, 98], axis=0)
    scaled = np.clip((components - low) / np.maximum(high - low, 1e-9), 0, 1)
    if scaled.shape[1] < 3:
        scaled = np.pad(scaled, ((0, 0), (0, 3 - scaled.shape[1])))
    explained = float(values[::-1][:3].sum() / max(values.sum(), 1e-12))
    return (255 * scaled).round().astype(np.uint8).reshape(*tokens.shape[:-1], 3), explained
