"""The flow of files from their sources to their fates, as a Sankey diagram: numbers in, shapes out.

Columns are the steps of curation, each bar what is still in. What a step leaves out runs to a bar of its own below the
next column, a bar a reason. Sets that are taken whole run beside the pool in a lane of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from dinomill.images.manifest import Fate

WIDTH = 1000.0
_HEIGHT = 300.0  # of the first bar: all files
_BAR = 12.0
_TOP = 40.0  # room for the captions above the bars
_LABEL = 34.0  # height that the label of a left-out bar needs
_GAP = 26.0  # between what stays and what leaves
_MOST = 4  # reasons of a step that get a bar of their own
_LAST = 130.0  # room at the right for the last step's labels

# A step's name is what is true of the files that pass it.
_STEPS: tuple[tuple[str, tuple[Fate, ...]], ...] = (
    ("not withdrawn", (Fate.WITHDRAWN,)),
    ("readable", (Fate.QUARANTINED,)),
    ("past the filters", (Fate.FILTERED,)),
    ("no copies", (Fate.EXACT_DUPLICATE, Fate.NEAR_DUPLICATE)),
    ("not in evaluation", (Fate.EVALUATION_OVERLAP,)),
    ("asked for by seeds", (Fate.IRRELEVANT,)),
    ("in their cluster's share", (Fate.BALANCED_OUT,)),
)


@dataclass(frozen=True)
class Bar:
    """A rectangle with its caption; ``lane`` is 0 for the pool, 1… for sets taken whole, -1 for what is left out."""

    x: float
    y: float
    height: float
    lane: int
    fate: str
    title: str


@dataclass(frozen=True)
class Ribbon:
    """A band from one bar to another: an SVG path."""

    path: str
    lane: int
    fate: str
    title: str


@dataclass(frozen=True)
class Label:
    """Two lines of text: a name and a count. ``above`` are those of the columns."""

    x: float
    y: float
    name: str
    count: str
    above: bool


@dataclass
class Flow:
    """What the template draws."""

    lanes: list[tuple[int, str]]  # number and name
    height: float = 0.0
    bars: list[Bar] = field(default_factory=list)
    ribbons: list[Ribbon] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def draw_flow(counts: Mapping[tuple[str, str, str], int]) -> Flow:
    """Lay the diagram out.

    Args:
        counts: Files by group (``pool``, ``seeds:<name>``), fate and reason.
    """
    # The pool runs at the bottom: what it loses then crosses nothing.
    groups = sorted({group for group, _, _ in counts}, key=lambda name: (name == "pool", name))
    lanes = {group: 0 if group == "pool" else 1 + number for number, group in enumerate(groups)}
    total = sum(counts.values())
    left = {group: sum(count for key, count in counts.items() if key[0] == group) for group in groups}
    taken = {fate for _, fate, _ in counts}
    steps = [(name, fates) for name, fates in _STEPS if taken & set(fates)]
    flow = Flow([(lanes[group], _lane_name(group)) for group in groups])
    reach = (WIDTH - _LAST - _BAR) / max(len(steps), 1)
    scale = _HEIGHT / max(total, 1)
    _caption(flow, 0.0, "looked at", total, total)
    for place, group in enumerate(groups):
        title = f"{_lane_name(group)}: {left[group]:,} files"
        top = _top_of(place, left, groups, scale)
        flow.bars.append(Bar(0.0, top, left[group] * scale, lanes[group], "", title))
    for number, (name, fates) in enumerate(steps):
        x = number * reach
        out = _left_out(counts, fates)
        after = {group: left[group] - sum(out[key][group] for key in out) for group in groups}
        _draw_step(flow, x, x + reach, lanes, left, after, out, scale, total)
        last = number == len(steps) - 1
        _caption(flow, x + reach, "kept" if last else name, sum(after.values()), total)
        left = after
    flow.height = max([_TOP + _HEIGHT, *(label.y + 20 for label in flow.labels)]) + 6
    return flow


Key = tuple[str, str]  # fate, reason


def _left_out(counts: Mapping[tuple[str, str, str], int], fates: tuple[Fate, ...]) -> dict[Key, Counter[str]]:
    """Files by reason and group that a step leaves out, most frequent first; rare reasons together."""
    found: dict[Key, Counter[str]] = {}
    for (group, fate, reason), count in counts.items():
        if fate in fates:
            found.setdefault((fate, _readable(reason) or fate.replace("_", " ")), Counter())[group] += count
    order = sorted(found, key=lambda key: (-found[key].total(), key))
    if len(order) <= _MOST:
        return {key: found[key] for key in order}
    rare: Counter[str] = Counter()
    for key in order[_MOST - 1 :]:
        rare += found[key]
    shown = {key: found[key] for key in order[: _MOST - 1]}
    return shown | {(order[-1][0], f"{len(order) - _MOST + 1} other reasons"): rare}


def _readable(reason: str) -> str:
    """``near_duplicate:signature`` as ``near: signature``, ``not_like_the_seeds`` as ``not like the seeds``."""
    fate, _, rest = reason.partition(":")
    if not rest:
        return fate.replace("_", " ")
    return f"{fate.split('_')[0]}: {rest}".replace("_", " ")


def _draw_step(
    flow: Flow,
    x0: float,
    x1: float,
    lanes: Mapping[str, int],
    before: Mapping[str, int],
    after: Mapping[str, int],
    out: Mapping[Key, Counter[str]],
    scale: float,
    total: int,
) -> None:
    """What passes a step straight on, what does not down to bars of its own."""
    groups = list(lanes)
    start = {group: _top_of(place, before, groups, scale) for place, group in enumerate(groups)}
    for place, group in enumerate(groups):
        height = after[group] * scale
        top = _top_of(place, after, groups, scale)
        title = f"{_lane_name(group)}: {after[group]:,} stay"
        flow.bars.append(Bar(x1, top, height, lanes[group], "", title))
        flow.ribbons.append(Ribbon(_band(x0, x1, start[group], top, height), lanes[group], "", title))
        start[group] += height
    y = _TOP + sum(after.values()) * scale + _GAP
    for (fate, reason), by_group in out.items():
        height = by_group.total() * scale
        title = f"{reason}: {by_group.total():,}"
        flow.bars.append(Bar(x1, y, max(height, 1.0), -1, fate, title))
        flow.labels.append(Label(x1 + _BAR + 5, y + 10, reason, _share(by_group.total(), total), above=False))
        inner = y
        for group in groups:
            part = by_group[group] * scale
            if part:
                flow.ribbons.append(Ribbon(_band(x0, x1, start[group], inner, part), -1, fate, title))
            start[group] += part
            inner += part
        y += max(height + 8, _LABEL)


def _lane_name(group: str) -> str:
    return "the pool" if group == "pool" else f"{group.split(':', 1)[-1]}, taken whole"


def _top_of(place: int, counts: Mapping[str, int], groups: list[str], scale: float) -> float:
    return _TOP + sum(counts[group] for group in groups[:place]) * scale


def _caption(flow: Flow, x: float, name: str, count: int, total: int) -> None:
    flow.labels.append(Label(x, _TOP - 24, name, _share(count, total), above=True))


def _share(count: int, total: int) -> str:
    share = count / max(total, 1)
    digits = 1 if 0.001 <= share < 0.9995 or not share else 2 if share < 0.5 else 0
    return f"{count:,} · {share:.{digits}%}"


def _band(x0: float, x1: float, y0: float, y1: float, height: float) -> str:
    """A band of one height from the right of a bar at ``x0`` to the bar at ``x1``."""
    begin, middle = x0 + _BAR, (x0 + _BAR + x1) / 2
    height = max(height, 0.6)
    return (
        f"M{begin:.1f},{y0:.1f} C{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {x1:.1f},{y1:.1f} V{y1 + height:.1f} "
        f"C{middle:.1f},{y1 + height:.1f} {middle:.1f},{y0 + height:.1f} {begin:.1f},{y0 + height:.1f} Z"
    )
