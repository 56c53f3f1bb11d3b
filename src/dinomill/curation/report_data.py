"""What the curation page shows: seeded samples of the finished steps, so that a million images cost no more."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.curation.embed import Embeddings, embedding_rows
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.tables import read_files, read_row
from dinomill.errors import DinomillError
from dinomill.images.decode import decode_image
from dinomill.images.manifest import Fate

_THUMBNAIL = 72  # pixels
_PER_SHEET, _PAIRS, _SEEDS, _PER_SEED, _CLUSTERS, _PER_CLUSTER, _POINTS = 24, 12, 8, 6, 12, 6, 3000
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Thumb:
    """A small inlined picture, or its name alone when it cannot be read."""

    uri: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Pictures under a heading."""

    title: str
    count: int
    thumbs: tuple[Thumb, ...]
    more: tuple[Thumb, ...] = ()


@dataclass
class CurationPage:
    """Everything on the page."""

    pool: int
    fates: list[tuple[str, int, list[tuple[str, int]]]]  # fate, files, reasons
    sheets: list[Group] = field(default_factory=list)
    pairs: list[tuple[Thumb, Thumb]] = field(default_factory=list)  # removed, kept
    seeds: list[Group] = field(default_factory=list)  # a seed, then what is closest to it
    clusters: list[Group] = field(default_factory=list)  # representative, random
    sizes: list[tuple[int, int, int]] = field(default_factory=list)  # cluster, before, after
    points: list[tuple[float, float, str]] = field(default_factory=list)  # x, y in [0, 1], fate


class Pictures:
    """Thumbnails of rows of the scan."""

    def __init__(self, files: pa.Table) -> None:
        self._files = files

    def thumb(self, row: int, note: str = "") -> Thumb:
        """The picture of a row."""
        columns = self._files.slice(row, 1).to_pylist()[0]
        name = columns["path"]
        if columns["reason"] is not None:
            return Thumb("", name, columns["detail"] or "")
        try:
            return Thumb(_data_uri(decode_image(read_row(columns), min_side=_THUMBNAIL)), name, note)
        except (DinomillError, OSError) as error:
            return Thumb("", name, str(error).splitlines()[0])


def gather(scan: ScanHandle, embeddings: EmbeddingsHandle, selection: SelectionHandle) -> CurationPage:
    """Read the steps' tables and a sample of the pictures."""
    files = read_files(scan, ["group", "source", "path", "bytes", "start", "place", "reason", "detail"])
    chosen = pq.read_table(selection.selection)
    columns = {name: np.asarray(chosen[name].to_pylist(), dtype=object) for name in chosen.column_names}
    generator = np.random.default_rng(0)
    pictures = Pictures(files)
    page = CurationPage(pool=len(chosen), fates=_fates(columns))
    page.sheets = _sheets(columns, pictures, generator)
    page.pairs = _pairs(columns, pictures, generator)
    page.seeds = _seeds(columns, pictures, generator)
    vectors = Embeddings(embeddings.shards)
    page.clusters = _clusters(columns, pictures, vectors, generator)
    sizes = pq.read_table(selection.clusters)
    page.sizes = sorted(zip(*(sizes[n].to_pylist() for n in ("cluster", "before", "after")), strict=True), key=_size)
    page.points = _map(columns, vectors, embedding_rows(files), generator)
    return page


def _size(row: tuple[int, int, int]) -> tuple[int, int]:
    return -row[1], row[0]


def _fates(columns: dict[str, Any]) -> list[tuple[str, int, list[tuple[str, int]]]]:
    found = []
    for fate in Fate:
        here = columns["fate"] == fate.value
        if here.any():
            reasons = Counter(reason for reason in columns["reason"][here] if reason)
            found.append((fate.value, int(here.sum()), sorted(reasons.items(), key=lambda item: (-item[1], item[0]))))
    return found


def _draw(places: Rows, count: int, generator: np.random.Generator) -> Rows:
    return np.sort(generator.choice(places, min(count, len(places)), replace=False))


def _sheets(columns: dict[str, Any], pictures: Pictures, generator: np.random.Generator) -> list[Group]:
    """A sheet a reason; the kept ones first."""
    titles = np.asarray([reason or fate for fate, reason in zip(columns["fate"], columns["reason"], strict=True)])
    sheets = []
    for title, count in sorted(Counter(titles.tolist()).items(), key=lambda item: (item[0] != "kept", -item[1])):
        places = _draw(np.flatnonzero(titles == title), _PER_SHEET, generator)
        thumbs = tuple(pictures.thumb(columns["row"][place], columns["detail"][place] or "") for place in places)
        sheets.append(Group(title, count, thumbs))
    return sheets


def _pairs(columns: dict[str, Any], pictures: Pictures, generator: np.random.Generator) -> list[tuple[Thumb, Thumb]]:
    copies = np.flatnonzero(
        np.isin(columns["fate"].astype(str), [Fate.NEAR_DUPLICATE.value, Fate.EVALUATION_OVERLAP.value])
    )
    return [
        (
            pictures.thumb(columns["row"][place], columns["detail"][place]),
            pictures.thumb(columns["duplicate_of"][place]),
        )
        for place in _draw(copies, _PAIRS, generator)
    ]


def _seeds(columns: dict[str, Any], pictures: Pictures, generator: np.random.Generator) -> list[Group]:
    """Some seeds, each with the kept images that are closest to it."""
    kept = np.flatnonzero((columns["fate"] == Fate.KEPT.value) & (columns["seed"] != None))  # noqa: E711 (an array)
    if not len(kept):
        return []
    of = columns["seed"][kept].astype(np.int64)
    similarity = columns["seed_similarity"][kept].astype(np.float64)
    groups = []
    for seed in _draw(np.unique(of), _SEEDS, generator):
        places = np.flatnonzero(of == seed)
        best = places[np.argsort(-similarity[places], kind="stable")[:_PER_SEED]]
        thumbs = [pictures.thumb(columns["row"][kept[p]], f"similarity {similarity[p]:.3f}") for p in best]
        groups.append(Group("seed", len(places), (pictures.thumb(int(seed)),), tuple(thumbs)))
    return groups


def _clusters(
    columns: dict[str, Any], pictures: Pictures, vectors: Embeddings, generator: np.random.Generator
) -> list[Group]:
    """The largest and the smallest clusters: images closest to the middle, and any images."""
    named = np.flatnonzero(columns["cluster"] != None)  # noqa: E711 (an array)
    cluster = columns["cluster"][named].astype(np.int64)
    names, counts = np.unique(cluster, return_counts=True)
    order = names[np.lexsort((names, -counts))]
    shown = order if len(order) <= _CLUSTERS else np.concatenate([order[: _CLUSTERS // 2], order[-_CLUSTERS // 2 :]])
    groups = []
    for name in shown:
        places = named[cluster == name]
        some = _draw(places, 500, generator)
        features = vectors.take(columns["embedding_row"][some].astype(np.int64))
        closeness = np.round(features @ features.mean(axis=0), 4)
        central = some[np.argsort(-closeness, kind="stable")[:_PER_CLUSTER]]
        random = _draw(places, _PER_CLUSTER, generator)
        first, second = (tuple(pictures.thumb(columns["row"][p]) for p in rows) for rows in (central, random))
        groups.append(Group(f"cluster {name}", len(places), first, second))
    return groups


def _map(
    columns: dict[str, Any], vectors: Embeddings, row_of: Rows, generator: np.random.Generator
) -> list[tuple[float, float, str]]:
    """The first two principal components of a sample of the pool."""
    seen = np.flatnonzero(columns["embedding_row"] != None)  # noqa: E711 (an array)
    some = _draw(seen, _POINTS, generator)
    if len(some) < 3:
        return []
    features = vectors.take(row_of[columns["row"][some].astype(np.int64)]).astype(np.float64)
    centred = features - features.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, [-1, -2]]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # an axis has no sign of its own
    place = centred @ axes
    low, high = np.quantile(place, 0.005, axis=0), np.quantile(place, 0.995, axis=0)
    place = np.clip((place - low) / np.maximum(high - low, 1e-9), 0, 1)
    fates = columns["fate"][some].tolist()
    return [(round(float(x), 3), round(float(y), 3), fate) for (x, y), fate in zip(place, fates, strict=True)]


def _data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if max(pixels.shape[:2]) <= 40 else "JPEG")
    kind = "png" if max(pixels.shape[:2]) <= 40 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
