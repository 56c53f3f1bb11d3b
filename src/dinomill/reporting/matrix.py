"""A square matrix of shares as inline SVG: what is right in one colour along the diagonal, errors in another."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from dinomill.arrays import Figures

_LETTER, _LONGEST = 7.4, 18
_CAPTION = 250  # pixels that the words below it need
_CELL, _SMALL_CELL = 25, 13  # pixels
_WITH_FIGURES = 20  # classes whose cells have room for a number
_SMALLEST = 0.005  # share that is drawn
_DARK = 0.55  # share from which a number is light on its colour


def draw_matrix(shares: Figures, names: Sequence[str], *, title: str) -> str:
    """Rows are what is true, columns what was said.

    Args:
        shares: ``[C, C]``, of their rows.
        names: Of the classes, in the order of rows and columns.
        title: All that it shows, for readers that cannot see it.
    """
    cell = _CELL if len(names) <= _WITH_FIGURES else _SMALL_CELL
    shown = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
    room = 12 + round(_LETTER * max((len(name) for name in shown), default=0))
    size = room + cell * len(names)
    # Names over the columns are turned by 60 degrees: the last ones reach beyond the right edge.
    width, top = max(size + round(room * 0.55), _CAPTION), round(room * 0.9) + 8
    # No larger than drawn: of two classes it would fill the page.
    parts = [
        f'<svg class="chart matrix" style="max-width:{round(1.3 * width)}px" '
        f'viewBox="0 0 {width} {top + cell * len(names) + 38}" role="img" aria-label="{escape(title)}">'
    ]
    small = "" if cell == _CELL else " tiny"
    for index, (name, full) in enumerate(zip(shown, names, strict=True)):
        y, x = top + cell * (index + 0.5), room + cell * (index + 0.5)
        parts.append(
            f'<text class="axis{small}" x="{room - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}'
            f"<title>{escape(full)}</title></text>"
        )
        parts.append(
            f'<text class="axis{small}" transform="translate({x + 3:.1f},{top - 7}) rotate(-60)">{escape(name)}'
            f"<title>{escape(full)}</title></text>"
        )
    parts.append(f'<rect class="frame" x="{room}" y="{top}" width="{cell * len(names)}" height="{cell * len(names)}"/>')
    for row, column in zip(*np.nonzero(shares >= _SMALLEST), strict=True):
        parts += _cell(row, column, float(shares[row, column]), names, room + cell * column, top + cell * row, cell)
    for line, caption in enumerate(("a row: what it is", "a column: what was said, % of the row")):
        parts.append(f'<text class="axis" x="0" y="{top + cell * len(names) + 16 + 16 * line}">{caption}</text>')
    return "".join([*parts, "</svg>"])


def _cell(row: int, column: int, share: float, names: Sequence[str], x: float, y: float, cell: int) -> list[str]:
    kind = "right" if row == column else "wrong"
    # Small errors would hardly be seen at their own strength; the number says how many they are.
    strength = share if row == column else share**0.7
    told = f"{names[row]} taken for {names[column]}: {share:.1%}" if row != column else f"{names[row]}: {share:.1%}"
    parts = [
        f'<rect class="cell {kind}" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
        f'fill-opacity="{max(strength, 0.08):.2f}"><title>{escape(told)}</title></rect>'
    ]
    if cell == _CELL:
        light = " light" if strength > _DARK else ""
        parts.append(
            f'<text class="number{light}" x="{x + (cell - 1) / 2}" y="{y + cell / 2 + 3.5}" text-anchor="middle">'
            f"{100 * share:.0f}</text>"
        )
    return parts
