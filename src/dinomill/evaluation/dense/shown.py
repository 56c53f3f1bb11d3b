"""Pictures beside their truth and what networks predict of them, for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinomill.arrays import Floats, Pixels
from dinomill.images.labelled import read_image

_SIDE = 160  # of a picture in a figure, pixels
_IGNORED = (0.9, 0.9, 0.9, 0.85)
_BACKGROUND = "background"
# Pixels lie in an SVG as they are: enlarged ones made a figure of several networks megabytes large.
_AS_IT_IS = "none"


@dataclass(frozen=True)
class Shown:
    """One image with its truth and predictions, made small.

    Args:
        image: ``[h, w, 3]``.
        truth: ``[h, w]``; NaN where nothing is known.
        predicted: By the network's name, ``[h, w]`` each.
    """

    image: Pixels
    truth: Floats
    predicted: Mapping[str, Floats]


def small_image(path: Path) -> Pixels:
    """A picture as it is shown, ``[h, w, 3]``."""
    pixels = read_image(path, min_side=_SIDE)
    image = Image.fromarray(pixels)
    image.thumbnail((2 * _SIDE, _SIDE))
    return np.asarray(image)


def small_map(values: npt.NDArray[Any], like: Pixels) -> Floats:
    """A map at the size of its picture, by the nearest pixel: ids are not mixed."""
    rows = (np.arange(like.shape[0]) + 0.5) * values.shape[0] / like.shape[0]
    columns = (np.arange(like.shape[1]) + 0.5) * values.shape[1] / like.shape[1]
    found: Floats = values[rows.astype(int)[:, None], columns.astype(int)].astype(np.float32)
    return found


def draw_segmentation(path: Path, shown: Sequence[Shown], classes: Sequence[str], title: str) -> Path:
    """Image, truth and each network's classes, laid over the image.

    Args:
        path: An SVG or PNG file.
        shown: A row each.
        classes: Names by id; those that occur are told by their colour.
        title: Above all.
    """
    present = np.unique(np.concatenate([_known(m) for one in shown for m in (one.truth, *one.predicted.values())]))
    colours = _colours(classes)

    def panel(axes: Any, one: Shown, values: Floats) -> None:
        grey = np.asarray(Image.fromarray(one.image).convert("L"))[..., None] / 255
        known = ~np.isnan(values)
        overlay = np.full((*values.shape, 4), _IGNORED)
        overlay[known] = [*map(colours.__getitem__, values[known].astype(int).tolist())]
        mixed = grey * (1 - overlay[..., 3:]) + overlay[..., :3] * overlay[..., 3:]
        axes.imshow((255 * mixed).round().astype(np.uint8), interpolation=_AS_IT_IS)

    figure, place = _figure(shown, title, panel, below=0.55)
    _legend(
        figure,
        place,
        [(classes[index], colours[index]) for index in present.astype(int)[:24] if classes[index] != _BACKGROUND],
    )
    return _save(figure, path)


def draw_depth(path: Path, shown: Sequence[Shown], unit: str, title: str) -> Path:
    """Image, truth and each network's depth, all of a row on one scale.

    Args:
        path: An SVG or PNG file.
        shown: A row each.
        unit: Of the depths.
        title: Above all.
    """

    def panel(axes: Any, one: Shown, values: Floats) -> None:
        low, high = np.nanpercentile(one.truth, [2, 98])
        axes.set_facecolor((0.85, 0.85, 0.85))  # seen where nothing is known
        axes.imshow(values, cmap="viridis_r", vmin=low, vmax=max(high, low + 1e-6), interpolation=_AS_IT_IS)
        if values is one.truth:
            axes.set_xlabel(f"{low:.3g} to {high:.3g} {unit}", fontsize=7)

    figure, _ = _figure(shown, title, panel, below=0.25)
    return _save(figure, path)


def _figure(shown: Sequence[Shown], title: str, panel: Any, *, below: float) -> tuple[Any, float]:
    """Rows of panels, with so many inches left free below them, and where these begin."""
    from matplotlib.figure import Figure

    names = ["image", "truth", *shown[0].predicted]
    shapes = [one.image.shape[:2] for one in shown]
    width = max(shape[1] / shape[0] for shape in shapes)
    height = 1.45 * len(shown) + 0.6 + below
    figure = Figure(figsize=(1.35 * max(width, 0.8) * len(names) + 0.2, height))
    grid = figure.subplots(len(shown), len(names), squeeze=False)
    for row, one in zip(grid, shown, strict=True):
        row[0].imshow(one.image, interpolation=_AS_IT_IS)
        for axes, values in zip(row[1:], (one.truth, *one.predicted.values()), strict=True):
            panel(axes, one, values)
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(_wrapped(name), fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.subplots_adjust(0.01, below / height, 0.99, 1 - 0.55 / height, 0.04, 0.08)
    return figure, below / height


def _legend(figure: Any, place: float, entries: Sequence[tuple[str, tuple[float, float, float, float]]]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, label=name) for name, colour in entries]
    figure.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, place), ncols=min(len(handles), 8), fontsize=7,
        frameon=False,
    )  # fmt: skip


def _save(figure: Any, path: Path) -> Path:
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, metadata=metadata, dpi=144)
    return path


def _colours(classes: Sequence[str]) -> list[tuple[float, float, float, float]]:
    """As many colours as there are classes, neighbours far apart; a background is left as it is."""
    from matplotlib import colormaps

    # Grey is what is ignored.
    count = 10 if len(classes) <= 10 else 20
    all_of_them = [colormaps[f"tab{count}"](index)[:3] for index in range(count)]
    base = [one for one in all_of_them if max(one) - min(one) > 0.05]
    found = []
    for index, name in enumerate(classes):
        red, green, blue = base[index % len(base)]
        darker = 1 - 0.25 * (index // len(base) % 3)
        found.append((red * darker, green * darker, blue * darker, 0.0 if name == _BACKGROUND else 0.6))
    return found


def _known(values: Floats) -> Floats:
    return np.unique(values[~np.isnan(values)])


def _wrapped(name: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(name, 18, max_lines=2, placeholder="…"))
