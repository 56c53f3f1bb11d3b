"""What the curation page shows: seeded samples of the finished steps, so that a million images cost little more."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.embedding.embed import Embeddings
from dinomill.curation.handles import EmbeddingsHandle, Judgement, ScanHandle, SelectionHandle
from dinomill.curation.page.decided import Decided, draw
from dinomill.curation.page.notes import remarks, work_done
from dinomill.curation.page.seed_sets import Border, Histogram, read_borders, read_histograms
from dinomill.curation.page.thumbnails import Pictures, Thumb
from dinomill.curation.page.tiles import Cut, cuts
from dinomill.curation.scan.scan import SEEDS
from dinomill.curation.scan.tables import read_files
from dinomill.images.manifest import Fate

_PER_SHEET, _PAIRS, _SEEDS, _SETS, _PER_SEED = 22, 10, 5, 8, 7
_CLUSTERS, _PER_CLUSTER, _MEASURED, _POINTS = 16, 6, 500, 4000
_FIGURE = re.compile(r"\d[\d.,]*\d|\d")
Counts = dict[tuple[str, str, str], int]


@dataclass(frozen=True)
class Group:
    """Pictures under a heading."""

    title: str
    count: int
    thumbs: tuple[Thumb, ...]
    more: tuple[Thumb, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class SeedSet:
    """One set of seeds: what it asked for, and some of its seeds, each with what is closest to it."""

    name: str
    asked: int
    threshold: float | None
    seeds: tuple[Group, ...]
    judgement: Judgement | None = None
    histogram: Histogram | None = None
    border: Border | None = None


@dataclass
class CurationPage:
    """Everything on the page."""

    counts: Counts  # files by group, fate and reason
    sheets: list[Group] = field(default_factory=list)
    pairs: list[Group] = field(default_factory=list)  # left out, what stays instead
    seeds: list[SeedSet] = field(default_factory=list)
    clusters: list[Group] = field(default_factory=list)  # representative, random
    sizes: list[tuple[int, int, int]] = field(default_factory=list)  # cluster, before, after
    points: list[tuple[float, float, str]] = field(default_factory=list)  # x, y in [0, 1], fate
    remarks: list[str] = field(default_factory=list)
    work: list[tuple[str, int, int]] = field(default_factory=list)  # what, for so many anew, for so many taken over
    apart: list[Group] = field(default_factory=list)  # what nearly left as a copy, beside what it resembles
    cuts: list[Cut] = field(default_factory=list)

    @property
    def files(self) -> int:
        """Files looked at."""
        return sum(self.counts.values())

    def fates(self) -> list[tuple[str, int]]:
        """Fates with their files, in the order in which they are decided."""
        found = [(fate.value, sum(n for key, n in self.counts.items() if key[1] == fate)) for fate in Fate]
        return [(fate, count) for fate, count in found if count]

    def doubts(self) -> list[tuple[int, str]]:
        """The sets of seeds, by their number on the page, that do not separate well, each with its verdict."""
        told = [(number, one.judgement) for number, one in enumerate(self.seeds, 1) if one.judgement is not None]
        return [(number, found.sentence) for number, found in told if found.verdict != "separates"]

    def reasons(self) -> list[tuple[str, str, int]]:
        """Fate, reason and files; most frequent first within a fate."""
        found: Counter[tuple[str, str]] = Counter()
        for (_, fate, reason), count in self.counts.items():
            found[fate, reason] += count
        order = [fate.value for fate in Fate]
        return [(*key, found[key]) for key in sorted(found, key=lambda key: (order.index(key[0]), -found[key], key[1]))]


def gather(
    scan: ScanHandle, embeddings: EmbeddingsHandle, selection: SelectionHandle, filters: FilterConfig
) -> CurationPage:
    """Read the steps' tables and a sample of the pictures."""
    files = read_files(scan, [*Pictures.COLUMNS, "tile_of", "tile_x", "tile_y", "tile_side"])
    table = pq.read_table(selection.selection)
    chosen, pictures, generator = Decided(table), Pictures(files, filters, scan.value_range), np.random.default_rng(0)
    vectors = Embeddings(embeddings.shards)
    page = CurationPage(counts=_counts(files, table))
    page.sheets = _sheets(chosen, pictures, generator)
    page.pairs = _pairs(chosen, pictures, generator)
    page.seeds = _seed_sets(files, chosen, pictures, selection, generator)
    sizes = pq.read_table(selection.clusters)
    page.sizes = sorted(zip(*(sizes[n].to_pylist() for n in ("cluster", "before", "after")), strict=True), key=_size)
    page.clusters = _clusters(chosen, page.sizes, pictures, vectors, generator)
    page.points = _map(chosen, vectors, generator)
    page.remarks = remarks(scan, selection)
    page.work = work_done(scan, embeddings, selection, files=len(files))
    page.apart, page.cuts = _apart(selection, pictures), cuts(files, table["row"], table["fate"])
    return page


def _size(row: tuple[int, int, int]) -> tuple[int, int]:
    return -row[1], row[0]


def _counts(files: pa.Table, table: pa.Table) -> Counts:
    columns = [files["group"].take(table["row"]), table["fate"], pc.coalesce(table["reason"], "")]
    together = pa.table(columns, names=["group", "fate", "reason"])
    rows = together.group_by(together.column_names).aggregate([([], "count_all")]).to_pylist()
    found = {(row["group"], row["fate"], row["reason"]): row["count_all"] for row in rows}
    return {key: found[key] for key in sorted(found)}


def _sheets(chosen: Decided, pictures: Pictures, generator: np.random.Generator) -> list[Group]:
    """A sheet a reason."""
    sheets = []
    for code in chosen.reasons:
        places = draw(np.flatnonzero(chosen.title == code), _PER_SHEET, generator)
        note, notes = said_once(chosen.details(places))
        thumbs = tuple(pictures.thumb(row, text) for row, text in zip(chosen.row[places], notes, strict=True))
        sheets.append(Group(chosen.titles[code], int(chosen.count[code]), thumbs, note=note))
    return sheets


def said_once(details: list[str]) -> tuple[str, list[str]]:
    """What all details have in common, with the span of the one figure in which they differ, and this of each."""
    if len(set(details)) == 1:
        return details[0], [""] * len(details)
    if len({_FIGURE.sub("…", detail) for detail in details}) != 1:
        return "", details
    figures = [_FIGURE.findall(detail) for detail in details]
    differ = [place for place, column in enumerate(zip(*figures, strict=True)) if len(set(column)) > 1]
    if len(differ) != 1:
        return "", details
    own = [found[differ[0]] for found in figures]
    try:
        low, *_, high = sorted(own, key=lambda figure: float(figure.replace(",", "")))
    except ValueError:  # no number: 1.2.3
        return "", details
    common = iter([*figures[0][: differ[0]], f"{low} to {high}", *figures[0][differ[0] + 1 :]])
    return _FIGURE.sub(lambda _: next(common), details[0]), own


def _pairs(chosen: Decided, pictures: Pictures, generator: np.random.Generator) -> list[Group]:
    """Some copies of each reason, and what stays instead."""
    copies = chosen.of_fate(Fate.EXACT_DUPLICATE, Fate.NEAR_DUPLICATE, Fate.EVALUATION_OVERLAP)
    copies &= chosen.duplicate_of >= 0
    found = []
    for code in chosen.reasons:
        places = draw(np.flatnonzero(copies & (chosen.title == code)), _PAIRS, generator)
        if len(places):
            note, notes = said_once(chosen.details(places))
            removed = tuple(pictures.thumb(row, text) for row, text in zip(chosen.row[places], notes, strict=True))
            stays = tuple(pictures.thumb(row) for row in chosen.duplicate_of[places])
            found.append(Group(chosen.titles[code], int(chosen.count[code]), removed, stays, note))
    return found


def _apart(selection: SelectionHandle, pictures: Pictures) -> list[Group]:
    """Some files that nearly left as copies, beside what they resemble, by what kept them."""
    if selection.apart is None or not selection.apart.exists():
        return []
    table, found = pq.read_table(selection.apart), []
    for reason, count in sorted(selection.kept_apart.items(), key=lambda item: (-item[1], item[0])):
        rows = table.filter(pc.equal(table["reason"], reason)).sort_by(
            [("distance", "ascending"), ("row", "ascending")]
        )
        rows = rows.slice(0, _PAIRS).to_pylist()
        if rows:
            stays = tuple(pictures.thumb(row["row"], f"{row['distance']:.4f}") for row in rows)
            found.append(Group(reason, count, stays, tuple(pictures.thumb(row["other"]) for row in rows)))
    return found


def _seed_sets(
    files: pa.Table, chosen: Decided, pictures: Pictures, selection: SelectionHandle, generator: np.random.Generator
) -> list[SeedSet]:
    """Some seeds of each set, each with the kept images that are closest to it."""
    kept = np.flatnonzero(chosen.of_fate(Fate.KEPT) & (chosen.seed >= 0))
    seeds = np.unique(chosen.seed[kept])
    groups = np.asarray(files["group"].take(pa.array(seeds)).to_pylist(), dtype=object)
    histograms, borders = read_histograms(selection), read_borders(selection, pictures)
    found = []
    for name, asked in sorted(selection.retrieved.items(), key=lambda item: (-item[1], item[0]))[:_SETS]:
        shown = []
        for seed in draw(seeds[groups == SEEDS + name], _SEEDS, generator):
            places = kept[chosen.seed[kept] == seed]
            best = places[np.argsort(-chosen.similarity[places], kind="stable")[:_PER_SEED]]
            thumbs = tuple(pictures.thumb(chosen.row[p], f"{chosen.similarity[p]:.3f}") for p in best)
            shown.append(Group("seed", len(places), (pictures.thumb(seed),), thumbs))
        told = selection.judged.get(name), histograms.get(name), borders.get(name)
        found.append(SeedSet(name, asked, selection.thresholds.get(name), tuple(shown), *told))
    return found


def _clusters(
    chosen: Decided,
    sizes: list[tuple[int, int, int]],
    pictures: Pictures,
    vectors: Embeddings,
    generator: np.random.Generator,
) -> list[Group]:
    """Clusters from the largest to the smallest: images closest to the middle, and any images."""
    places_shown = np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), _CLUSTERS)).round().astype(int))
    groups = []
    for name, before, after in (sizes[place] for place in places_shown):
        places = np.flatnonzero(chosen.cluster == name)
        some = draw(places, _MEASURED, generator)
        features = vectors.take(chosen.embedding_row[some])
        closeness = np.round(features @ features.mean(axis=0), 4)
        central = some[np.argsort(-closeness, kind="stable")[:_PER_CLUSTER]]
        random = draw(places, _PER_CLUSTER, generator)
        first, second = (tuple(pictures.thumb(row) for row in chosen.row[some]) for some in (central, random))
        groups.append(Group(f"cluster {name}", before, first, second, note=f"{after:,} stay"))
    return groups


def _map(chosen: Decided, vectors: Embeddings, generator: np.random.Generator) -> list[tuple[float, float, str]]:
    """The first two principal components of a sample of the pool; what is kept comes first, to be drawn below."""
    some = draw(np.flatnonzero(chosen.embedding_row >= 0), _POINTS, generator)
    if len(some) < 3:
        return []
    features = vectors.take(chosen.embedding_row[some]).astype(np.float64)
    centred = features - features.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, [-1, -2]]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # an axis has no sign of its own
    place = centred @ axes
    low, high = np.quantile(place, 0.005, axis=0), np.quantile(place, 0.995, axis=0)
    place = np.clip((place - low) / np.maximum(high - low, 1e-9), 0, 1)
    points: list[tuple[float, float, str]] = [
        (round(float(x), 3), round(float(y), 3), chosen.fates[code])
        for (x, y), code in zip(place, chosen.fate[some], strict=True)
    ]
    return sorted(points, key=lambda point: point[2] != Fate.KEPT)


def effective(sizes: list[tuple[int, int, int]], column: Any) -> float:
    """How many equally large clusters are as varied: the exponential of the sizes' entropy."""
    counts = np.asarray([row[column] for row in sizes], dtype=np.float64)
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()))
