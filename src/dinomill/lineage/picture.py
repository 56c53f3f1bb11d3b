"""The thread as a picture: a column a kind, from images at the left to requests at the right; SVG, PNG or HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dinomill.errors import InputError
from dinomill.lineage.thread import Kind, Thing, Thread
from dinomill.storage.atomic import atomic_file, write_text

_WIDTH, _HEIGHT, _APART, _BETWEEN, _EDGE = 228.0, 62.0, 60.0, 28.0, 24.0
_TOP = 34.0  # room for the names of the columns
_LETTERS = 30  # in a line of a box
_MOST = 14  # boxes in a column; the others are one box
_COLOURS = {
    Kind.IMAGE: "#8a4a7d",
    Kind.DATASET: "#0d6e63",
    Kind.RUN: "#7d7c75",
    Kind.NETWORK: "#4f60b3",
    Kind.PROBE: "#3d7a9e",
    Kind.VERSION: "#c2592b",
    Kind.ARCHIVE: "#a3842a",
    Kind.ENDPOINT: "#b03a4c",
    Kind.REQUEST: "#5b5a55",
}
_FACTS = ("aliases", "images", "day", "state", "withdrawn", "lies in", "answered")


class Box(NamedTuple):
    """A rectangle with its lines."""

    x: float
    y: float
    kind: Kind
    title: str
    facts: str
    whole: str  # all that is known, for a pointer that rests on it
    asked: bool


class Drawing(NamedTuple):
    """What is drawn."""

    width: float
    height: float
    boxes: list[Box]
    lines: list[tuple[int, int, str]]  # from box, to box, what
    columns: list[tuple[float, str]]


def draw(thread: Thread, wanted: Sequence[Thing]) -> Drawing:
    """Lay a thread out: what comes of something stands to its right."""
    asked = {thing.key for thing in wanted}
    level = _levels(thread)
    columns: dict[int, list[Thing]] = {}
    for thing in sorted(thread.things.values(), key=lambda one: one.key not in asked):
        columns.setdefault(level[thing.key], []).append(thing)
    place: dict[str, int] = {}
    boxes: list[Box] = []
    heads: list[tuple[float, str]] = []
    heights: dict[str, float] = {}
    for number, at in enumerate(sorted(columns)):
        things, x = _in_order(thread, columns[at], heights), _EDGE + number * (_WIDTH + _APART)
        kinds = list(dict.fromkeys(thing.kind for thing in things))
        heads.append((x, " · ".join(f"{kind}s" for kind in kinds)))
        for row, thing in enumerate(things):
            shown = min(row, _MOST)
            heights[thing.key] = y = _TOP + _EDGE + shown * (_HEIGHT + _BETWEEN)
            if row <= _MOST:
                boxes.append(_box(thing, x, y, thing.key in asked))
            elif row == _MOST + 1:
                more = f"and {len(things) - _MOST} more"
                boxes[-1] = Box(x, y, thing.kind, more, "--json lists all", more, False)
            place[thing.key] = len(boxes) - 1
    lines = dict.fromkeys((place[above.key], place[below.key]) for above, below, _ in thread.links())
    words = {(place[above.key], place[below.key]): what for above, below, what in thread.links()}
    width = max((box.x for box in boxes), default=0.0) + _WIDTH + _EDGE
    height = max((box.y for box in boxes), default=0.0) + _HEIGHT + _BETWEEN + _EDGE
    return Drawing(width, height, boxes, [(*ends, words[ends]) for ends in lines], heads)


def _levels(thread: Thread) -> dict[str, int]:
    """The column of each thing: one right of the last of what it came of."""
    level: dict[str, int] = {}

    def of(thing: Thing, below: tuple[str, ...] = ()) -> int:
        if thing.key not in level:
            above = [other for other, _ in thread.above(thing) if other.key not in below]
            level[thing.key] = max((of(other, (*below, thing.key)) + 1 for other in above), default=0)
        return level[thing.key]

    for thing in thread.things.values():
        of(thing)
    return level


def _in_order(thread: Thread, things: list[Thing], heights: dict[str, float]) -> list[Thing]:
    """Each beside what it came of, so that few lines cross."""

    def middle(thing: Thing) -> float:
        found = [heights[above.key] for above, _ in thread.above(thing) if above.key in heights]
        return sum(found) / len(found) if found else 0.0

    return sorted(things, key=middle)


def _box(thing: Thing, x: float, y: float, asked: bool) -> Box:
    shown = "  ".join(thing.facts[name] for name in _FACTS if name in thing.facts)
    whole = "\n".join([f"{thing.kind} {thing.title}", *(f"{name}: {value}" for name, value in thing.facts.items())])
    return Box(x, y, thing.kind, _cut(thing.title, begin=thing.kind is Kind.IMAGE), _cut(shown), whole, asked)


def _cut(text: str, *, begin: bool = False) -> str:
    if len(text) <= _LETTERS:
        return text
    return f"…{text[1 - _LETTERS :]}" if begin else f"{text[: _LETTERS - 1]}…"


def as_svg(drawing: Drawing) -> str:
    """The drawing as an SVG file that needs nothing else."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" '
        f'width="{drawing.width:.0f}" height="{drawing.height:.0f}" font-family="system-ui, sans-serif">',
        '<rect width="100%" height="100%" fill="#fffefb"/>',
    ]
    for x, name in drawing.columns:
        parts.append(f'<text x="{x:.0f}" y="{_EDGE + 8:.0f}" font-size="13" fill="#5b5a55">{html.escape(name)}</text>')
    for one, other, what in drawing.lines:
        parts.append(_curve(drawing.boxes[one], drawing.boxes[other], what))
    parts += [_rectangle(box) for box in drawing.boxes]
    return "\n".join([*parts, "</svg>", ""])


def _way(one: Box, other: Box) -> list[tuple[float, float]]:
    """The four points of a curve between two boxes; over more than a column it goes round below what is between."""
    x0, y0, x1, y1 = one.x + _WIDTH, one.y + _HEIGHT / 2, other.x, other.y + _HEIGHT / 2
    bend = max(_APART / 2, (x1 - x0) / 2)
    if x1 - x0 > _WIDTH and abs(y1 - y0) < _HEIGHT:
        low = max(y0, y1) + 4 / 3 * (_HEIGHT / 2 + _BETWEEN / 2)  # of a curve's bow three quarters are reached
        return [(x0, y0), (x0 + _APART, low), (x1 - _APART, low), (x1, y1)]
    return [(x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)]


def _curve(one: Box, other: Box, what: str) -> str:
    begin, *rest = (f"{x:.1f},{y:.1f}" for x, y in _way(one, other))
    return (
        f'<path d="M{begin} C{" ".join(rest)}" fill="none" stroke="#a5a49c" stroke-width="1.6">'
        f"<title>{html.escape(what)}</title></path>"
    )


def _rectangle(box: Box) -> str:
    colour, line = _COLOURS[box.kind], 3.0 if box.asked else 1.2
    x, y = box.x, box.y
    return (
        f'<g><title>{html.escape(box.whole)}</title><rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH:.0f}" '
        f'height="{_HEIGHT:.0f}" rx="7" fill="#ffffff" stroke="{colour}" stroke-width="{line}"/>'
        f'<text x="{x + 11:.0f}" y="{y + 17:.0f}" font-size="10.5" fill="{colour}">{box.kind}</text>'
        f'<text x="{x + 11:.0f}" y="{y + 34:.0f}" font-size="12.5" fill="#22211e">{html.escape(box.title)}</text>'
        f'<text x="{x + 11:.0f}" y="{y + 51:.0f}" font-size="11" fill="#5b5a55">{html.escape(box.facts)}</text></g>'
    )


def write_picture(thread: Thread, wanted: Sequence[Thing], text: str, file: Path) -> None:
    """Write the picture; how is told by the file's name.

    Args:
        thread: What is drawn.
        wanted: What was asked for: drawn bolder.
        text: The same in words, for the page.
        file: ``.svg``, ``.png`` or ``.html``.

    Raises:
        InputError: For another name.
    """
    drawing = draw(thread, wanted)
    if file.suffix == ".svg":
        write_text(file, as_svg(drawing))
    elif file.suffix == ".html":
        title = html.escape(", ".join(f"{thing.kind} {thing.title}" for thing in wanted))
        write_text(file, _PAGE.format(title=title, drawing=as_svg(drawing), text=html.escape(text)))
    elif file.suffix == ".png":
        _write_png(drawing, file)
    else:
        raise InputError(f"{file} names no picture.", expected="a name that ends in .svg, .png or .html")


def _write_png(drawing: Drawing, file: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Curve

    figure = Figure(figsize=(drawing.width / 96, drawing.height / 96), dpi=144, facecolor="#fffefb")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.axis("off")
    size = 0.75  # points a pixel
    for x, name in drawing.columns:
        axes.text(x, _EDGE + 8, name, fontsize=13 * size, color="#5b5a55", parse_math=False)
    for one, other, _ in drawing.lines:
        points = _way(drawing.boxes[one], drawing.boxes[other])
        codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
        axes.add_patch(PathPatch(Curve(points, codes), fill=False, edgecolor="#a5a49c", linewidth=1.2))
    for box in drawing.boxes:
        colour = _COLOURS[box.kind]
        axes.add_patch(
            FancyBboxPatch(
                (box.x, box.y), _WIDTH, _HEIGHT, boxstyle="round,pad=0,rounding_size=7",
                facecolor="white", edgecolor=colour, linewidth=2.4 if box.asked else 1.0,
            )
        )  # fmt: skip
        for down, letters, said, ink in (
            (17, 10.5, str(box.kind), colour),
            (34, 12.0, box.title, "#22211e"),
            (51, 10.5, box.facts, "#5b5a55"),
        ):
            axes.text(box.x + 11, box.y + down, said, fontsize=letters * size, color=ink, parse_math=False)
    with atomic_file(file) as temporary:
        figure.savefig(temporary, format="png")


_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lineage: {title}</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; background: #fffefb; color: #22211e }}
figure {{ margin: 0; overflow-x: auto }} pre {{ overflow-x: auto; font-size: 13px }}</style></head>
<body><h1>Lineage</h1><figure>{drawing}</figure><pre>{text}</pre></body></html>
"""
