"""What the page shows of each set of seeds: the verdict, how pool and seeds score, the border, some seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinomill.curation.handles import Judgement, SelectionHandle
from dinomill.curation.page.thumbnails import Pictures, Thumb
from dinomill.curation.selection.evidence import BORDERLINE, SCORES

WIDTH, HEIGHT = 720.0, 130.0
_SEEDS = 0.5  # of the height: the seeds' most frequent scores


@dataclass(frozen=True)
class Bar:
    """Images of one bin of scores, in the units of the drawing: what is asked for stands on what is not."""

    x: float
    width: float
    asked: float  # heights
    left: float
    title: str


@dataclass(frozen=True)
class Histogram:
    """How the pool's images and the seeds score."""

    bars: tuple[Bar, ...]
    shape: str  # an SVG path: where the seeds lie, in a scale of its own
    outline: str  # an SVG path: the seeds, scaled to as many images as the pool seems to hold of what they show
    threshold: float | None  # x
    ticks: tuple[tuple[float, str], ...]  # x, score


@dataclass(frozen=True)
class Border:
    """Images on both sides of where a set stops asking."""

    asked: tuple[Thumb, ...]
    left: tuple[Thumb, ...]


def draw_histogram(bins: pa.Table, judgement: Judgement | None, threshold: float | None) -> Histogram | None:
    """Lay the bins of one set out; None where there are none."""
    if not bins.num_rows:
        return None
    low, high = (bins[name].to_numpy() for name in ("low", "high"))
    left, asked, seeds = (bins[name].to_numpy().astype(np.float64) for name in ("left", "asked", "seeds"))
    begin, reach = low[0], max(high[-1] - low[0], 1e-9)
    total = _as_many(judgement, float(asked.sum()))
    curve = seeds / max(seeds.sum(), 1.0) * total
    # One bin of what is far from everything would flatten all others.
    most = max(float(np.quantile(left + asked, 0.98)), float(curve.max()), 1.0)

    def across(score: float) -> float:
        return round(float((score - begin) / reach * WIDTH), 1)

    def up(count: float) -> float:
        return round(float(min(count / most, 1.0) * HEIGHT), 1)

    bars = tuple(
        Bar(
            across(a),
            across(b) - across(a),
            up(n),
            up(m + n) - up(n),
            f"{a:.3f} to {b:.3f}: {n:,.0f} asked for, {m:,.0f} not, {s:,.0f} seeds",
        )
        for a, b, m, n, s in zip(low, high, left, asked, seeds, strict=True)
    )

    def path(counts: npt.NDArray[np.float64]) -> str:
        steps = " ".join(f"V{HEIGHT - up(n):.1f} H{across(b):.1f}" for n, b in zip(counts, high, strict=True))
        return f"M0,{HEIGHT:.0f} {steps} V{HEIGHT:.0f}"

    ticks = tuple((across(score), f"{score:.2f}") for score in _round_scores(float(low[0]), float(high[-1])))
    shape = path(seeds / max(float(seeds.max()), 1.0) * _SEEDS * most)
    return Histogram(bars, shape, path(curve), None if threshold is None else across(threshold), ticks)


def _as_many(judgement: Judgement | None, asked: float) -> float:
    """How many images the pool seems to hold of what the seeds show; where that is not known, as many as asked for."""
    if judgement is None or judgement.purity is None or not judgement.reach:
        return asked
    return judgement.purity * judgement.asked / judgement.reach


def _round_scores(low: float, high: float) -> list[float]:
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 9 or s == 1.0)
    return [float(n * step) for n in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def read_histograms(selection: SelectionHandle) -> dict[str, Histogram]:
    """The drawing of each set, by name."""
    path = selection.folder / SCORES
    if not path.exists():
        return {}
    table, found = pq.read_table(path), {}
    for name in selection.retrieved:
        drawn = draw_histogram(
            table.filter(pc.equal(table["set"], name)), selection.judged.get(name), selection.thresholds.get(name)
        )
        if drawn is not None:
            found[name] = drawn
    return found


def read_borders(selection: SelectionHandle, pictures: Pictures) -> dict[str, Border]:
    """The borderline images of each set, by name; the last that it asks for, and the first that it does not."""
    path = selection.folder / BORDERLINE
    if not path.exists():
        return {}
    rows = pq.read_table(path).to_pylist()
    found = {}
    for name in selection.retrieved:
        sides = [
            tuple(
                pictures.thumb(r["row"], f"{r['score']:.3f}") for r in rows if r["set"] == name and r["asked"] is side
            )
            for side in (True, False)
        ]
        found[name] = Border(*sides)
    return found
