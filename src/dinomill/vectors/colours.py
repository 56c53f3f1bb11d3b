"""Patch features as colours, so that people see what they tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.arrays import Figures, Pixels


def colour_patches(tokens: npt.NDArray[Any]) -> tuple[Pixels, float]:
    """The three strongest principal components of all patches as red, green and blue.

    Patches that mean the same have the same colour, across images too (Oquab et al. 2023, figure 1).

    Args:
        tokens: ``[M, h, w, D]``.

    Returns:
        ``[M, h, w, 3]`` uint8, and the share of the variance that the three hold.
    """
    components, explained = principal(tokens)
    return as_colours(components), explained


def principal(tokens: npt.NDArray[Any]) -> tuple[Figures, float]:
    """The three strongest principal components, ``[M, h, w, 3]``, and the share of the variance that they hold."""
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    values, vectors = np.linalg.eigh(flat.T @ flat)
    components = flat @ vectors[:, ::-1][:, :3]
    # A component's sign is arbitrary; fixing it by its skew keeps colours alike from run to run.
    components *= np.where((components**3).sum(axis=0) < 0, -1, 1)
    if components.shape[1] < 3:
        components = np.pad(components, ((0, 0), (0, 3 - components.shape[1])))
    explained = float(values[::-1][:3].sum() / max(values.sum(), 1e-12))
    return components.reshape(*tokens.shape[:-1], 3), explained


def turned_like(components: Figures, before: Figures) -> Figures:
    """Components in the orientation in which the same patches are most like what they were (orthogonal Procrustes).

    Which component is which, and its sign, are arbitrary and change as features do; the space that the three span, and
    all distances in it, stay as they are.

    Args:
        components: ``[M, h, w, 3]``.
        before: The same of the same patches, by an earlier network.
    """
    now, then = components.reshape(-1, 3), before.reshape(-1, 3)
    # Each to a spread of one: else the strongest of both would decide alone.
    left, _, right = np.linalg.svd(_even(now).T @ _even(then))
    turned: Figures = _even(now) @ (left @ right)
    return turned.reshape(components.shape)


def as_colours(components: Figures) -> Pixels:
    """Three components as red, green and blue, each over the range that nearly all patches have: uint8."""
    flat = components.reshape(-1, 3)
    low, high = np.percentile(flat, [2, 98], axis=0)
    scaled = np.clip((flat - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.asarray((255 * scaled).round().reshape(components.shape), dtype=np.uint8)


def _even(flat: Figures) -> Figures:
    return np.asarray(flat / np.maximum(flat.std(axis=0), 1e-9))
