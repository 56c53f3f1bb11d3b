"""Look at every file once: decode it, hash it, measure it; or write down why it cannot be used. Once for all runs.

<folder>/files.parquet     a row a file, sorted by group, source and path
<folder>/signatures.npy    int8 [rows, 448]
<folder>/quarantine.csv    path, reason and detail of every file that is left out
<cache>/scan/              what was seen of every file and content before (known.py)
<cache>/content/           what content filters found, where one is on (content.py)
"""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from dinomill.config import Config
from dinomill.curation.content.content import CONTENT_SCHEMA, asked, examine
from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.handles import ScanHandle
from dinomill.curation.scan.known import LOOK_FIELDS, Known, Looked
from dinomill.curation.scan.left_out import without
from dinomill.curation.scan.preflight import EMPTY_TILE, PreflightConfig
from dinomill.curation.work_done import TAKEN_OVER, counted, say
from dinomill.errors import InputError
from dinomill.execution.tasks import ExecutionConfig
from dinomill.images.listing import Item, list_items, tile_columns
from dinomill.images.pixels import kind_of, used_bits
from dinomill.images.tiles import TileConfig
from dinomill.images.withdrawn import WITHDRAWN, WithdrawnList
from dinomill.storage.arrays import write_rows
from dinomill.storage.atomic import atomic_file, fresh_folder, write_parquet
from dinomill.storage.hashing import hash_file, hash_json

POOL, LABELLED, SEEDS = "pool", "labelled", "seeds:"

FILES_SCHEMA = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),  # pool, labelled, seeds:<name>
        pa.field(
            "candidate", pa.bool_(), nullable=False
        ),  # may become part of the dataset: the pool, and sets taken whole
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),  # of the payload in the source's tar; -1: a file of its own
        pa.field("place", pa.string(), nullable=False),  # where it is read from, when not source/path
        *LOOK_FIELDS[:2],  # reason and detail
        pa.field("tile_of", pa.string()),  # path of the picture that it is cut from; null: no tile
        pa.field("tile_x", pa.int32()),  # of its left side in that picture, pixels
        pa.field("tile_y", pa.int32()),  # of its top
        pa.field("tile_side", pa.int32()),
        pa.field("sha256", pa.string()),
        LOOK_FIELDS[2],  # hash of what is seen
        pa.field("bytes", pa.int64()),
        *LOOK_FIELDS[3:],
        *CONTENT_SCHEMA,
    ]
)
_LISTED = ("group", "candidate", "source", "path", "start", "place", "tile_of", "tile_x", "tile_y", "tile_side")
_BEFORE_CONTENT = pa.schema([field for field in FILES_SCHEMA if field not in CONTENT_SCHEMA])
_NO_FILTERS = FilterConfig()
_NONE_WITHDRAWN = WithdrawnList()
log = logging.getLogger(__name__)


class ScanConfig(Config):
    """How files are looked at."""

    preflight: PreflightConfig = PreflightConfig()
    files_per_task: int = Field(default=512, ge=1, description="files that one task looks at")
    max_bad_fraction: float = Field(
        default=0.5, ge=0, le=1, description="stop when more than this share of the pool cannot be used"
    )


def scan(
    groups: dict[str, list[str]],
    config: ScanConfig,
    filters: FilterConfig = _NO_FILTERS,
    *,
    whole: Collection[str] = (),
    tiles: Mapping[str, TileConfig] = MappingProxyType({}),
    withdrawn: WithdrawnList = _NONE_WITHDRAWN,
    folder: Path,
    work: Path,
    execution: ExecutionConfig,
    cache: Path | None = None,
) -> ScanHandle:
    """Scan every source of every group.

    Args:
        groups: Sources by group: ``pool``, ``labelled``, ``seeds:<name>``.
        config: How to look.
        filters: What is asked of the pictures' content.
        whole: Groups beside the pool whose images go into the dataset too: ``seeds:<name>``.
        tiles: How the images of some sources are cut.
        withdrawn: Images that are to be in no dataset: in every group they are as if they could not be read.
        folder: Where the result goes.
        work: Where unfinished work is kept.
        execution: Where tasks run.
        cache: Where what was seen is kept; None: in ``work``.

    Raises:
        InputError: When a source is missing or empty, or too much of the pool cannot be used.
        MachineError: When a network that a filter needs is not installed.
    """
    content = asked(filters)  # what is missing is said before hours of work, not after them
    skipped: dict[str, Counter[str]] = {group: Counter() for group in groups}
    found = _list(groups, tiles, skipped)
    cache = cache or work / "cache"
    looked = Known(cache, config.preflight).look(
        [one for group in groups for one in found[group]],
        per_task=config.files_per_task,
        done=work / "scan" / "done",
        execution=execution,
    )
    columns = _listed(groups, found, whole) | dict(zip(looked.table.column_names, looked.table.columns, strict=True))
    files = pa.table([columns[name] for name in _BEFORE_CONTENT.names], schema=_BEFORE_CONTENT)
    files, taken_out = without(files, withdrawn, kept=LABELLED)
    fresh_folder(folder)
    _write_quarantine(folder / "quarantine.csv", files)
    bad = _refuse_what_is_useless(files, config, folder / "quarantine.csv")
    seen = examine(
        files, filters, value_range=config.preflight.value_range, work=work, execution=execution, cache=cache
    )
    files = pa.table([*files.columns, *seen.columns], schema=FILES_SCHEMA)
    _write_tables(folder, files, looked)
    made = ScanHandle(
        folder=folder,
        made_of=hash_json(
            [config.content_hash(), content, sorted(whole), *([withdrawn.content_hash()] if withdrawn.rows else [])]
        ),
        files=folder / "files.parquet",
        files_sha256=hash_file(folder / "files.parquet"),
        signatures=folder / "signatures.npy",
        quarantine=folder / "quarantine.csv",
        groups=dict(Counter(files["group"].to_pylist())),
        quarantined=bad,
        withdrawn=taken_out,
        skipped=dict(sorted(skipped[POOL].items())),
        value_range=config.preflight.value_range,
        **_depth(files, config.preflight),
        sources=tuple(
            source for group, sources in groups.items() if group == POOL or group in whole for source in sources
        ),
    )
    return made.model_copy(update={"work": _did(made, looked, len(files), work)})


def _refuse_what_is_useless(files: pa.Table, config: ScanConfig, quarantine: Path) -> dict[str, int]:
    """Files of the pool that cannot be used, by reason; too many of them are an error, and nothing but empty tiles."""
    reasons, pool = _reasons(files), Counter(files["group"].to_pylist())[POOL]
    pool -= reasons.pop(WITHDRAWN, 0)  # nor with what must not be used
    if not pool:
        raise InputError(
            "Every file of the pool is withdrawn.",
            found="all of them on the list of withdrawn images",
            action="correct `pool` in globals.yml, or take back a withdrawal: `dinomill withdraw --undo IMAGE`",
        )
    empty = reasons.pop(EMPTY_TILE, 0)  # nothing is wrong with a tile that shows nothing
    bad = dict(sorted(reasons.items()))
    _refuse_a_broken_pool(bad, pool, config, quarantine)
    if empty and empty + sum(bad.values()) == pool:
        _refuse_empty_tiles(empty, config)
    return bad


def _write_tables(folder: Path, files: pa.Table, looked: Looked) -> None:
    write_parquet(folder / "files.parquet", files)
    with atomic_file(folder / "signatures.npy") as temporary:
        write_rows(temporary, [looked.signatures], shape=looked.signatures.shape, dtype=np.int8)


def _did(made: ScanHandle, looked: Looked, files: int, work: Path) -> dict[str, int]:
    """What was done anew: said, and counted for the handle."""
    say("scan", looked.decoded, files, looked.taken_over, "files")
    did = {"read": looked.read, "decoded": looked.decoded, TAKEN_OVER: looked.taken_over}
    return counted(work, "scan", hash_json([made.made_of, made.files_sha256]), did)


def _list(
    groups: dict[str, list[str]], tiles: Mapping[str, TileConfig], skipped: dict[str, Counter[str]]
) -> dict[str, list[tuple[str, list[Item]]]]:
    """Everything in the sources of each group; sidecars are counted in ``skipped``."""
    found = {}
    for group, sources in groups.items():
        listed = ((source, list_items(source, tiles.get(source), skipped[group])) for source in sorted(sources))
        found[group] = [(source, items) for source, items in listed if items]
    for group, sources in groups.items():
        if not found[group]:
            raise _empty(group, sources)
    return found


def _listed(
    groups: dict[str, list[str]], found: Mapping[str, list[tuple[str, list[Item]]]], whole: Collection[str]
) -> dict[str, pa.Array]:
    """The columns that the listing alone says."""
    columns: dict[str, list[Any]] = {name: [] for name in _LISTED}
    for group in groups:
        for source, items in found[group]:
            columns["group"] += [group] * len(items)
            columns["candidate"] += [group == POOL or group in whole] * len(items)
            columns["source"] += [source] * len(items)
            columns["path"] += [item.path for item in items]
            columns["start"] += [item.offset for item in items]
            columns["place"] += [item.place for item in items]
            for item in items:
                for name, value in tile_columns(item).items():
                    columns[name].append(value)
    return {name: pa.array(values, FILES_SCHEMA.field(name).type) for name, values in columns.items()}


def _depth(files: pa.Table, config: PreflightConfig) -> dict[str, Any]:
    """How many files of the pool hold more than 8 bits, and how much of them they use; says so when it is little."""
    import pyarrow.compute as pc

    deep = files.filter(pc.and_(pc.equal(files["group"], POOL), pc.is_valid(files["largest"])))
    if not len(deep):
        return {"deep": 0, "largest": None}
    largest = pc.max(deep["largest"]).as_py()
    kinds = Counter(map(kind_of, deep["mode"].to_pylist()))
    sixteen = set(kinds) == {"16-bit integers"}
    if config.value_range is None and sixteen and (bits := used_bits(largest)) is not None:
        log.warning(
            "No value of %s files of 16 bits is above %g: they hold %d bits, and are seen nearly black. "
            "Set curation.scan.preflight.value_range: [0, %d].",
            f"{len(deep):,}", largest, bits, 2**bits - 1,
        )  # fmt: skip
    return {"deep": len(deep), "largest": largest, "deep_kinds": dict(sorted(kinds.items()))}


def _write_quarantine(path: Path, files: pa.Table) -> None:
    import pyarrow.compute as pc

    bad = files.filter(pc.is_valid(files["reason"])).select(["group", "source", "path", "reason", "detail"])
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(bad.column_names)
        writer.writerows(zip(*(column.to_pylist() for column in bad.columns), strict=True))


def _reasons(files: pa.Table) -> Counter[str]:
    """Why files of the pool are left out, and how many of each reason."""
    import pyarrow.compute as pc

    reasons = files.filter(pc.equal(files["group"], POOL))["reason"].drop_null()
    return Counter({one["values"]: one["counts"] for one in reasons.value_counts().to_pylist()})


def _refuse_a_broken_pool(reasons: Mapping[str, int], files: int, config: ScanConfig, quarantine: Path) -> None:
    bad = sum(reasons.values())
    if bad <= config.max_bad_fraction * files and bad < files:
        return
    found = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    raise InputError(
        f"{bad:,} of the {files:,} files of the pool cannot be used.",
        found=found,
        expected=f"at most {config.max_bad_fraction:.0%} (curation.scan.max_bad_fraction)" if bad < files else "images",
        action=f"see {quarantine}: each file is there with its reason; mend the pool"
        + (" or raise the limit" if bad < files else ""),
    )


def _refuse_empty_tiles(tiles: int, config: ScanConfig) -> None:
    raise InputError(
        "Every tile of the pool is empty.",
        found=f"{tiles:,} tiles, none of contrast {config.preflight.min_tile_contrast:g} or more",
        expected="tiles on which something shows",
        action="lower curation.scan.preflight.min_tile_contrast, or cut larger tiles (`side` in globals.yml)",
    )


def _empty(group: str, sources: list[str]) -> InputError:
    return InputError(
        f"There is no file in the sources of {group.removesuffix(':')}.",
        found=", ".join(sources) or "no source at all",
        expected="folders, archives, manifests or s3:// prefixes with image files in them",
        action="correct `pool`, `seeds` or `labelled` in globals.yml, or run `dinomill sample`",
    )
