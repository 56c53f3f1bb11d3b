"""Where class tokens look, as pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinomill.arrays import Figures, Pixels, Rows
from dinomill.handles import EvaluationHandle, ModelHandle
from dinomill.reporting.pictures import data_uri

_HEADS = 6  # whose own maps are shown
_DETAILED = 4  # images of which they are
# From nothing to most: dark violet to pale yellow, even in lightness, as in matplotlib's magma.
_COLOURS = np.array([[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]], float)


@dataclass(frozen=True)
class AttentionMaps:
    """Of one model, in the order of the images that are shown."""

    means: tuple[str, ...]  # over heads
    heads: tuple[tuple[str, ...], ...]  # of the first images, one for each of the first heads
    share: float  # of the attention that goes to patches


def view_attention(evaluation: EvaluationHandle, model: str, rows: Rows) -> AttentionMaps | None:
    """The maps that evaluation kept; None where it kept none.

    Args:
        evaluation: Its handle.
        model: The row's label in its files.
        rows: Of the kept images, which are shown.
    """
    path = evaluation.folder / "attention" / f"{model}.npy"
    if not path.is_file():
        return None
    maps = np.load(path, allow_pickle=False).astype(np.float64)[rows]  # [M, heads, h, w]
    side = max(maps.shape[2:])
    heads = maps[:_DETAILED, :_HEADS]
    return AttentionMaps(
        tuple(data_uri(heat(one), side) for one in maps.mean(axis=1)),
        tuple(tuple(data_uri(heat(head), side) for head in one) for one in heads) if maps.shape[1] > 1 else (),
        float(maps.sum(axis=(2, 3)).mean()),
    )


def heat(values: Figures) -> Pixels:
    """A map ``[h, w]`` as colours ``[h, w, 3]``: its lowest value dark, its highest bright."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12) * (len(_COLOURS) - 1)
    below = np.minimum(scaled.astype(int), len(_COLOURS) - 2)
    part = (scaled - below)[..., None]
    colours: Pixels = (_COLOURS[below] * (1 - part) + _COLOURS[below + 1] * part).round().astype(np.uint8)
    return colours


def has_attention(model: ModelHandle) -> bool:
    """Whether a network has a class token that attends: a ConvNeXt has none."""
    path = Path(model.folder) / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["model"].get("kind", "vit")
    except (OSError, ValueError, KeyError, AttributeError):
        return True
    return bool(kind == "vit")
