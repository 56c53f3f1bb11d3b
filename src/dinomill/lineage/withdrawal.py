"""What an image touched, what is like it, and what has to be made again without it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinomill.errors import InputError
from dinomill.handles import HANDLE_NAME
from dinomill.images.manifest import Fate
from dinomill.images.withdrawn import Withdrawal
from dinomill.lineage.find import find
from dinomill.lineage.gather import Gathered
from dinomill.lineage.images import Row, Wanted, rows_of
from dinomill.lineage.labelled import PROBES
from dinomill.lineage.places import everywhere
from dinomill.lineage.thread import Kind, Thing, Thread
from dinomill.storage.hashing import hash_file

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAME = Fate.EXACT_DUPLICATE.value
_ROUNDS = 3  # of "a copy of a copy": curation keeps one of a group, so that two reach everything


class Copy(NamedTuple):
    """An image that looks like one that is withdrawn."""

    thing: Thing
    of: str  # id of the image that it is a copy of
    same: bool  # pixel for pixel
    how: str


def images_named(gathered: Gathered, names: Sequence[str], here: Path) -> list[Thing]:
    """The images that some names mean; a whole sha256 is taken although no dataset at hand knows it.

    Raises:
        InputError: When one means none, or something else.
    """
    found: dict[str, Thing] = {}
    for name in names:
        try:
            things = find(gathered, name, here)
        except InputError:
            if not _SHA256.fullmatch(name):
                raise
            things = [gathered.thread.add(Kind.IMAGE, name, name[:12], known="no dataset at hand has it")]
        for thing in things:
            if thing.kind is not Kind.IMAGE:
                raise InputError(
                    f"{name} is no image.",
                    found=f"{thing.kind} {thing.title}",
                    expected="the path of an image or the sha256 of its bytes",
                    action=f"see which images it has: dinomill lineage {name} --images FILE.csv",
                )
            found[thing.key] = thing
    return list(found.values())


def copies_of(gathered: Gathered, images: Sequence[Thing]) -> list[Copy]:
    """What curation found to be a copy of some images, or them to be copies of; in every dataset at hand."""
    found: dict[str, Copy] = {}
    own = {image.id for image in images}
    for digest, manifest in gathered.results.manifests.items():
        sources = gathered.results.sources.get(digest, ())
        for image in images:
            wanted = Wanted(hashes=[image.id]) if _SHA256.fullmatch(image.id) else Wanted(paths=[image.id])
            group = {row["path"]: row for row in rows_of(manifest, wanted, sources)}
            for _ in range(_ROUNDS):
                known = len(group)
                names = {row["path"] for row in group.values()} | {
                    row["duplicate_of"] for row in group.values() if row["duplicate_of"]
                }
                if not names:
                    break
                more = rows_of(manifest, Wanted(copies_of=names, paths=names), sources)
                group |= {row["path"]: row for row in more if _is_copy(row) or row["path"] in names}
                if len(group) == known:
                    break
            for row in group.values():
                if row["sha256"] and row["sha256"] not in own and row["fate"] != Fate.EVALUATION_OVERLAP.value:
                    found.setdefault(row["sha256"], _copy(gathered, row, image))
    return list(found.values())


def _is_copy(row: Row) -> bool:
    return row["fate"] in (_SAME, Fate.NEAR_DUPLICATE.value)


def _copy(gathered: Gathered, row: Row, image: Thing) -> Copy:
    thing = gathered.images(Wanted(hashes=[row["sha256"]]))[0]
    return Copy(thing, image.id, row["fate"] == _SAME, row["reason"] or row["fate"])


def as_rows(
    gathered: Gathered, images: Sequence[Thing], copies: Sequence[Copy], date: str, because: str
) -> list[Withdrawal]:
    """The rows of the list for images and copies."""
    pixels = _pixels(gathered, [one.id for one in [*images, *(copy.thing for copy in copies)]])
    rows = []
    for image in images:
        if _SHA256.fullmatch(image.id):
            rows.append(Withdrawal(image.id, pixels.get(image.id, ""), "", "", date, because))
        else:
            # A picture that is cut into tiles: each has a hash of its own, and another when it is cut otherwise.
            whole = hash_file(Path(image.id)) if Path(image.id).is_file() else ""
            rows.append(Withdrawal(whole, "", image.id, "", date, because))
    for copy in copies:
        of = copy.of if _SHA256.fullmatch(copy.of) else ""
        rows.append(Withdrawal(copy.thing.id, pixels.get(copy.thing.id, ""), "", of, date, because))
    return rows


def _pixels(gathered: Gathered, hashes: Sequence[str]) -> dict[str, str]:
    """What is seen of some images, as the scans at hand have it."""
    found: dict[str, str] = {}
    for folder in everywhere(gathered.places, "scan"):
        file = Path(folder, "files.parquet")
        if file.is_file():
            known = pc.field("sha256").isin(list(hashes)) & pc.field("pixels").is_valid()
            for row in pq.read_table(file, columns=["sha256", "pixels"], filters=known).to_pylist():
                found[row["sha256"]] = row["pixels"]
    return found


def to_make_again(gathered: Gathered, touched: Thread) -> Iterator[tuple[str, str]]:
    """What has to be done so that nothing in use holds the images any more: why, and the command."""
    datasets = {thing.facts.get("lies in") for thing in touched.of_kind(Kind.DATASET)} - {None}
    said: set[str] = set()
    for place in gathered.places:
        curated, teacher = (place.folders.get(name, Path()).as_posix() for name in ("curated", "teacher"))
        own = curated not in said
        if curated in datasets and (own or (teacher not in said and Path(teacher, HANDLE_NAME).is_file())):
            what = f"{curated}, and all that is made of it" if own else f"what {place.env} trained on {curated}"
            yield what, place.run
            said |= {curated, teacher}
    probes = [Path(probe.facts.get("lies in", "")) for probe in touched.of_kind(Kind.PROBE)]
    for place in gathered.places:
        folder = place.folders.get("evaluation", Path()) / PROBES
        if folder.as_posix() not in said and any(path.parent == folder for path in probes):
            packaged = [archive.title for one in touched.of_kind(Kind.PROBE) for archive, _ in touched.below(one)]
            scores = f", and the class scores of {', '.join(packaged)}" if packaged else ""
            yield f"{folder.as_posix()}: what evaluation fitted on labelled images{scores}", place.run
            said.add(folder.as_posix())
    for version in touched.of_kind(Kind.VERSION):
        if aliases := version.facts.get("aliases"):
            named = version.id.rpartition("/")[0]
            option = next((place.option for place in gathered.places if place.model == named), "")
            yield (
                f"{version.title} is {aliases}: the new version takes its place if it passes the gate",
                f"dinomill summary{option}",
            )
    for server in touched.of_kind(Kind.ENDPOINT):
        if server.facts.get("state", "").startswith("running"):
            yield f"{server.title} still answers with it", "end that server and start it with the new archive"


def still_held(images: Sequence[Thing], touched: Thread, labelled: Collection[str]) -> Iterator[tuple[str, str]]:
    """Where the images are kept after all that: what, and how it goes.

    Args:
        images: That are withdrawn.
        touched: What came of them.
        labelled: Files of labelled images, which are to be removed before all that.
    """
    removed = {Path(file).resolve() for file in labelled}
    files = [one.title for one in images if Path(one.title).is_file() and Path(one.title).resolve() not in removed]
    if files:
        shown = ", ".join(files[:3]) + (f", and {len(files) - 3} more" if len(files) > 3 else "")
        yield f"the file{'s' * (len(files) > 1)} in the pool: {shown}", "remove them there"
    if touched.of_kind(Kind.DATASET):
        yield (
            "the shards of earlier datasets in DVC's cache and remote, with their pages",
            "when the new dataset is committed: dvc gc --workspace --cloud   (it removes every earlier version)",
        )
        yield "what was computed of them (features, measures), by their hash alone", "rm -r data/work/cache"
        yield "the page of curation among the artifacts of its MLflow run", "mlflow gc, or delete that run's artifacts"
    if touched.of_kind(Kind.NETWORK):
        yield "the weights of the networks above were computed with them", "delete their versions when others serve"
