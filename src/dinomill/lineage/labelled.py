"""Labelled images: evaluation reads them where they lie, and fits its linear probes on those of one split.

<scan>/files.parquet                rows of the group ``labelled``
<evaluation>/probes/handle.json     the probes, by the weights of their networks
<package>/handle.json               the archive that answers with class scores by one of them
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinomill.errors import DinomillError
from dinomill.handles import HANDLE_NAME
from dinomill.images.labelled_table import is_table, splits_of
from dinomill.layers import Layers
from dinomill.lineage.images import Row, Wanted, completed
from dinomill.lineage.places import Place, everywhere
from dinomill.lineage.results import read_handle
from dinomill.lineage.thread import Kind, Thing, Thread

PROBES = "probes"
_GROUP = "labelled"
_READ = ("group", "source", "path", "place", "sha256")
_NONE = pa.table({name: pa.array([], pa.string()) for name in _READ})


class Labelled:
    """The labelled images of some environments; the scans are read when they are first asked for.

    Args:
        found: The environments.
    """

    def __init__(self, found: list[Place]) -> None:
        self._places = found
        self._tables: dict[str, pa.Table] = {}
        self._splits: dict[str | None, _Split] = {}

    def files_of(self, hashes: Collection[str]) -> list[str]:
        """Where images of these contents lie among labelled ones."""
        rows = [row for scan in everywhere(self._places, "scan") for row in self._rows(scan, Wanted(hashes=hashes))]
        return sorted({_file(row).as_posix() for row in rows})

    def add(self, thread: Thread, wanted: Wanted) -> list[Thing]:
        """Add the labelled images that are wanted, and what was fitted on them.

        Args:
            thread: With the archives already, which a probe may be in.
            wanted: Which images.
        """
        things: dict[str, Thing] = {}
        for place in self._places:
            scan = place.folders.get("scan")
            for row in [] if scan is None else self._rows(scan.as_posix(), wanted):
                file = _file(row)
                thing = thread.add(Kind.IMAGE, row["sha256"], file.as_posix(), sha256=row["sha256"])
                learnt = self._split(place).has(file, row["path"])
                thing.facts.setdefault(
                    "labelled", f"{file.as_posix()}, {'learnt from' if learnt else 'scored'} by evaluation"
                )
                if learnt:
                    _link_probes(thread, thing, place)
                things[thing.key] = thing
        return list(things.values())

    def _rows(self, scan: str, wanted: Wanted) -> list[Row]:
        if scan not in self._tables:
            self._tables[scan] = _read(Path(scan, "files.parquet"))
        table = self._tables[scan]
        if not len(table) or not wanted.columns():
            return []
        sources = sorted(set(table["source"].to_pylist()))
        mask = wanted.among(completed(table, wanted.columns()), sources)
        found: list[Row] = table.filter(pa.array(mask)).to_pylist()
        return [row for row in found if row["sha256"]]

    def _split(self, place: Place) -> _Split:
        if place.env not in self._splits:
            self._splits[place.env] = _Split(place)
        return self._splits[place.env]


class _Split:
    """The labelled images that evaluation learns from in an environment."""

    def __init__(self, place: Place) -> None:
        layers = Layers(place.env)
        self._name = str((layers.parameters.get("evaluation") or {}).get("bank_split", "train"))
        labelled = layers.globals.get("labelled")
        self._of_table: dict[str, set[str]] | None = None
        if isinstance(labelled, str) and is_table(labelled):
            try:
                self._of_table = {os.path.abspath(path): names for path, names in splits_of(Path(labelled)).items()}  # noqa: PTH100
            except DinomillError:  # evaluation says what is wrong with it
                self._of_table = {}

    def has(self, file: Path, path: str) -> bool:
        """Whether an image is in it: of a table its rows say so, else its folder."""
        if self._of_table is None:
            return path.split("/")[0] == self._name
        return self._name in self._of_table.get(os.path.abspath(file), ())  # noqa: PTH100


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, columns=list(_READ), filters=pc.field("group") == _GROUP)
    except (OSError, pa.ArrowInvalid):  # no scan here, or a damaged one, which curation makes anew
        return _NONE


def _file(row: Row) -> Path:
    return Path(row["place"]) if row["place"] else Path(row["source"], row["path"])


def _link_probes(thread: Thread, image: Thing, place: Place) -> None:
    """That the probes of an environment were fitted on an image, and which archive answers by one."""
    folder = place.folders.get("evaluation")
    kept = None if folder is None else read_handle(folder / PROBES / HANDLE_NAME)
    for weights, path in ((kept or {}).get("probes") or {}).items():
        probe = thread.add(Kind.PROBE, str(path), f"{Path(str(path)).stem} {str(weights)[:12]}", lies_in=str(path))
        thread.link(image, probe, "learnt from it")
        for archive in _archives(thread, place, str(weights)):
            thread.link(probe, archive, "its class scores")


def _archives(thread: Thread, place: Place, weights: str) -> Iterator[Thing]:
    folder = place.folders.get("package")
    package: Any = None if folder is None else read_handle(folder / HANDLE_NAME)
    if package and package.get("probe") and package.get("weights_sha256") == weights:
        archive = thread.things.get(f"{Kind.ARCHIVE}:{package.get('archive_sha256')}")
        if archive is not None:
            yield archive
