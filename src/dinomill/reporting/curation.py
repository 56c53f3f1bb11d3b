"""What the page says about curation: where files went, pictures of each fate, duplicates beside what stayed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dinomill.arrays import Pixels
from dinomill.handles import DatasetHandle
from dinomill.images.manifest import Fate, read_manifest
from dinomill.reporting.config import ReportingConfig
from dinomill.reporting.pictures import Originals, Picture

FATE_NAMES = {
    Fate.KEPT: "kept",
    Fate.WITHDRAWN: "withdrawn",
    Fate.QUARANTINED: "broken or unusable",
    Fate.FILTERED: "filtered by content",
    Fate.EXACT_DUPLICATE: "exact duplicates",
    Fate.NEAR_DUPLICATE: "near duplicates",
    Fate.EVALUATION_OVERLAP: "too close to the evaluation set",
    Fate.IRRELEVANT: "irrelevant",
    Fate.BALANCED_OUT: "over their cluster's share",
}
_COLUMNS = [
    *("path", "source", "fate", "reason", "detail", "duplicate_of", "shard", "offset", "length", "tile_of"),
    *("seed_similarity", "cluster", "nsfw", "faces", "blurred"),
]
_PATCHES = 4  # of colour a side, in place of a picture that the page must not show
_QUARANTINE_ROWS = 40


@dataclass(frozen=True)
class FateCount:
    """A bar of the flow from pool to dataset."""

    fate: str
    name: str
    count: int
    share: float  # of the pool
    before: float  # share of the pool that earlier fates took: where the bar begins
    reasons: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet."""

    fate: str
    title: str
    count: int
    pictures: tuple[Picture, ...]
    noted: bool  # whether something stands under the pictures
    caption: str  # what that is


@dataclass(frozen=True)
class Pair:
    """A removed image beside the one that stayed."""

    removed: Picture
    kept: Picture
    reason: str
    detail: str


@dataclass(frozen=True)
class CurationView:
    """Everything that the page shows of curation."""

    pool: int
    kept: int
    fates: tuple[FateCount, ...]
    sheets: tuple[Sheet, ...]
    pairs: tuple[Pair, ...]
    quarantined: tuple[tuple[str, str, str], ...]  # path, reason, detail
    embedder: str
    seeds: tuple[str, ...]  # how well each set of seeds separates


def view_curation(curated: DatasetHandle, config: ReportingConfig) -> CurationView:
    """Read the manifest and a sample of its images."""
    table = read_manifest(curated.manifest, _COLUMNS)
    originals = _Discreet(curated, config.thumbnail, blurred=bool(pc.any(table["blurred"]).as_py()))
    removed = [fate for fate in Fate if fate not in (Fate.KEPT, Fate.QUARANTINED, Fate.WITHDRAWN)]
    sheets = [_sheet(table, Fate.KEPT, config.kept_images, originals)]
    sheets += [_sheet(table, fate, config.removed_images, originals) for fate in removed]
    return CurationView(
        pool=table.num_rows,
        kept=curated.images,
        fates=count_fates(table),
        sheets=tuple(sheet for sheet in sheets if sheet.pictures),
        pairs=_pairs(table, config.duplicate_pairs, originals),
        quarantined=_quarantined(table),
        embedder=curated.embedder,
        seeds=tuple(curated.seeds.values()),
    )


class _Discreet(Originals):
    """Pictures, but only patches of colour of what the dataset must not show.

    Args:
        curated: The dataset.
        side: Longer side of the pictures in pixels.
        blurred: Faces are blurred in the dataset; outside of its shards they are not.
    """

    def __init__(self, curated: DatasetHandle, side: int, *, blurred: bool) -> None:
        super().__init__(curated, side)
        self._blurred = blurred

    def pixels(self, row: dict[str, Any]) -> Pixels:
        """The decoded picture of a manifest row, or what may be shown of it."""
        pixels = super().pixels(row)
        face = self._blurred and row["faces"] and row["shard"] is None
        if row["reason"] != "nsfw" and not face:
            return pixels
        few = Image.fromarray(pixels.squeeze()).resize((_PATCHES, _PATCHES), Image.Resampling.BOX)
        smooth = np.asarray(few.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))
        return smooth.reshape(pixels.shape)


def count_fates(table: pa.Table) -> tuple[FateCount, ...]:
    """Files by fate in the order in which curation decides, each with its reasons, most frequent first."""
    grouped = table.group_by(["fate", "reason"]).aggregate([([], "count_all")]).to_pylist()
    pairs = Counter({(row["fate"], row["reason"]): row["count_all"] for row in grouped})
    counts: list[FateCount] = []
    passed = 0
    for fate in Fate:
        reasons = Counter({reason or "": count for (name, reason), count in pairs.items() if name == fate.value})
        total = reasons.total()
        if not total:
            continue
        named = tuple((readable(name), count) for name, count in reasons.most_common() if name and name != fate.value)
        share, before = total / table.num_rows, passed / table.num_rows
        counts.append(FateCount(fate.value, FATE_NAMES[fate], total, share, before, named))
        passed += total
    return tuple(counts)


def spread(table: pa.Table, count: int) -> list[dict[str, Any]]:
    """Up to ``count`` rows, evenly from the whole table."""
    if table.num_rows > count:
        table = table.take(pa.array([table.num_rows * number // count for number in range(count)], pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _sheet(table: pa.Table, fate: Fate, count: int, originals: Originals) -> Sheet:
    chosen = table.filter(pc.equal(table["fate"], fate.value))
    if fate is Fate.KEPT:
        # Neighbours in the pool often look alike; the order of clusters shows the variety.
        ordered = chosen.sort_by([("cluster", "ascending"), ("path", "ascending")])
    else:
        ordered = chosen.sort_by([("reason", "ascending"), ("path", "ascending")])
    rows = spread(ordered, count)
    if fate is Fate.IRRELEVANT and all(row["seed_similarity"] is not None for row in rows):
        notes, caption = [f"{row['seed_similarity']:.2f}" for row in rows], "with the similarity to the closest seed"
    else:
        # One reason for all is said above the sheet once, not under each picture.
        reasons = {readable(row["reason"]) for row in rows} - {FATE_NAMES[fate]}
        notes = [readable(row["reason"]) if len(reasons) > 1 else "" for row in rows]
        caption = "".join(reasons) if len(reasons) == 1 else ""
    pictures = tuple(originals.picture(row, note) for row, note in zip(rows, notes, strict=True))
    return Sheet(fate.value, FATE_NAMES[fate], chosen.num_rows, pictures, any(notes), caption)


def readable(reason: str | None) -> str:
    """A reason without its fate: ``near_duplicate:signature`` is ``signature``."""
    return (reason or "").split(":", 1)[-1].replace("_", " ")


def _pairs(table: pa.Table, count: int, originals: Originals) -> tuple[Pair, ...]:
    copies = pc.is_in(table["fate"], value_set=pa.array([Fate.EXACT_DUPLICATE.value, Fate.NEAR_DUPLICATE.value]))
    removed = table.filter(pc.and_(copies, pc.is_valid(table["duplicate_of"])))
    removed = removed.sort_by([("reason", "ascending"), ("path", "ascending")])
    rows = spread(removed, count)
    kept_paths = pa.array({row["duplicate_of"] for row in rows}, pa.string())
    partners = table.filter(pc.is_in(table["path"], value_set=kept_paths)).to_pylist()
    by_path = {(row["source"], row["path"]): row for row in partners} | {row["path"]: row for row in partners}
    pairs = []
    for row in rows:
        partner = by_path.get((row["source"], row["duplicate_of"])) or by_path.get(row["duplicate_of"])
        if partner is not None:
            reason = f"{row['fate']}: {row['reason'].split(':')[-1]}" if row["reason"] else row["fate"]
            pairs.append(
                Pair(originals.picture(row), originals.picture(partner), reason.replace("_", " "), row["detail"] or "")
            )
    return tuple(pairs)


def _quarantined(table: pa.Table) -> tuple[tuple[str, str, str], ...]:
    chosen = table.filter(pc.equal(table["fate"], Fate.QUARANTINED.value)).sort_by("reason")
    return tuple(
        (row["path"], (row["reason"] or "").replace("_", " "), row["detail"] or "")
        for row in spread(chosen, _QUARANTINE_ROWS)
    )
