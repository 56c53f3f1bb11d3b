"""The labelled split, wholly: layout, classes, numbers, and every file decoded once.

<work>/checks/labelled.json    what was found of each file, by path, size and time of change: nothing is decoded twice
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dinomill.errors import DinomillError
from dinomill.execution.progress import progress
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.labelled import LabelledPaths, find_labelled, place_of, root_of, shown_from
from dinomill.images.labelled_table import is_table
from dinomill.planning.checks.memory import recall, remember
from dinomill.planning.checks.problems import Problem, count, some
from dinomill.planning.checks.request import Request

KEY = "labelled"
_LAYOUT = "<split>/<class>/<image>, for example train/shoe/001.png"
_NO_LABELS = "or set `labelled` to null: then nothing is measured"
_VERSION = 1  # to be raised when the decoder takes or refuses other files
_SIDE = 32  # a JPEG's coefficients are all read, its pixels not all made
_MONITOR_SPLIT = "train"  # what training looks at; see dinomill.training.monitor_images
_LEAK = 0.5  # share of the queries that the bank may hold before scores say nothing


class _Seen(NamedTuple):
    size: int
    changed: int  # nanoseconds
    fault: str  # why it cannot be used; empty: it can
    sha256: str


def check_labelled(request: Request) -> Iterator[Problem]:
    """Everything about the labelled images that a stage would refuse, or that would spoil its figures."""
    if request.labelled is None:
        yield from _without(request)
        return
    splits = _splits(request)
    if not splits or not request.runs("curation", "pretraining", "distillation", "evaluation"):
        return
    if request.will_be_made(request.labelled) or request.holds_results(request.labelled):
        return
    if "://" in request.labelled:
        if request.runs("evaluation"):
            yield Problem(
                KEY,
                f"The labelled images {request.labelled} are not in a folder of this machine.",
                expected=f"a folder {_LAYOUT}",
                action=f"copy them, and set `labelled` to the folder, {_NO_LABELS}",
            )
        return
    root = Path(request.labelled)
    if not root.exists():
        yield Problem(
            KEY,
            f"There is no folder {root} of labelled images.",
            found=f"nothing at {root.absolute()}",
            expected=f"a folder {_LAYOUT}",
            action=f"correct the path, or run `dinomill sample` if it is the sample's, {_NO_LABELS}",
        )
        return
    if not root.is_dir() and not is_table(root):
        yield Problem(
            KEY,
            f"The labelled images {root} are no folder and no table.",
            found="a file",
            expected=f"a folder {_LAYOUT}, or a .csv or .parquet with the columns path, label, split",
            action=f"unpack it, and set `labelled` to the folder, {_NO_LABELS}",
        )
        return
    found: dict[str, LabelledPaths] = {}
    classes: tuple[str, ...] | None = None
    for split, limit in splits.items():
        if root.is_dir():
            yield from _loose(root / split)
        try:
            found[split] = find_labelled(root, split, classes=classes, limit=limit)
        except DinomillError as error:
            yield _layout(error, root, split)
            continue
        classes = classes or found[split].classes
    yield from _numbers(request, root, found)
    yield from _contents(request, root, found)


def _splits(request: Request) -> dict[str, int | None]:
    """The splits that will be read, the bank's first, and how many images of each at most."""
    splits: dict[str, int | None] = {}
    if request.runs("evaluation") and (evaluation := request.evaluation):
        splits = {evaluation.bank_split: evaluation.max_bank, evaluation.query_split: evaluation.max_queries}
    for stage in ("pretraining", "distillation"):
        config = getattr(request, stage)
        if request.runs(stage) and config and config.runtime.monitor.every and _MONITOR_SPLIT not in splits:
            splits[_MONITOR_SPLIT] = config.runtime.monitor.labelled_images
    return splits


def _without(request: Request) -> Iterator[Problem]:
    if not request.runs("registration") or not (config := request.registration):
        return
    becomes = "becomes champion unmeasured" if config.gate.without_labels == "promote" else "stays a candidate"
    yield Problem(
        KEY,
        f"There are no labelled images: nothing can be measured, and the registered version {becomes}.",
        found=f"labelled: null, and registration.gate asks for {config.gate.measure}",
        action=f"name a folder {_LAYOUT}; or leave it, if this is what you want",
        warning=True,
    )


def _layout(error: DinomillError, root: Path, split: str) -> Problem:
    problem = Problem.of(error, KEY)
    if is_table(root):
        return problem
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    action = f"make {root / split}/<class>/ with images, {_NO_LABELS}"
    if "classes that the other split lacks" in problem.problem:
        action = "give both splits the same class folders: what was never shown cannot be recognised"
    elif folders and not {"train", "test", split} & set(folders):
        action = (
            f"if these are the classes, move some of each into {root}/train/<class> and the others into "
            f"{root}/test/<class>, {_NO_LABELS}"
        )
    return Problem(KEY, problem.problem, problem.found, problem.expected or _LAYOUT, action)


def _loose(folder: Path) -> Iterator[Problem]:
    """Files that lie beside the class folders: nobody would read them."""
    loose = sorted(path.name for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    if loose:
        yield Problem(
            KEY,
            f"{count(len(loose), 'file')} in {folder} {'lies' if len(loose) == 1 else 'lie'} in no class folder, "
            "and will not be read.",
            found=some(loose),
            expected=_LAYOUT,
            action="move them into their classes' folders, or away",
            warning=True,
        )


def _numbers(request: Request, root: Path, found: dict[str, LabelledPaths]) -> Iterator[Problem]:
    """Enough classes, and enough images in each, for the probes and the monitor."""
    evaluation = request.evaluation
    for split, images in found.items():
        place = place_of(root, split)
        counts = np.bincount(images.labels, minlength=len(images.classes))
        empty = [name for name, many in zip(images.classes, counts, strict=True) if not many]
        if evaluation is None or split != evaluation.bank_split or not request.runs("evaluation"):
            if len(images) < 2 and split == _MONITOR_SPLIT:
                yield _few(place, images, counts, "at least two images: one is compared with the others")
            elif empty:
                yield Problem(
                    KEY,
                    f"{place} has no image of {count(len(empty), 'class', 'classes')} that the bank knows.",
                    found=some(empty),
                    action="add some: what is not asked for does not count in the scores",
                    warning=True,
                )
            continue
        held = max(min(round(many * evaluation.protocols.linear.holdout), many - 1) for many in counts.tolist())
        if len(images.classes) < 2 or counts.max() < 2:
            yield _few(place, images, counts, "at least two classes, and several images in each")
        elif held < 1:
            share = evaluation.protocols.linear.holdout
            yield _few(place, images, counts, f"images enough to hold {share:.0%} of a class back for choosing")
        elif empty:
            yield _few(place, images, counts, f"images of every class; {some(empty)} has none")
        elif single := [name for name, many in zip(images.classes, counts, strict=True) if many == 1]:
            yield Problem(
                KEY,
                f"{count(len(single), 'class', 'classes')} of {place} {'has' if len(single) == 1 else 'have'} "
                "one image alone: nothing of them can be held out, and k and regularisation are chosen by the others.",
                found=some(single),
                action="add images of them, or leave these classes out",
                warning=True,
            )


def _few(folder: str, images: LabelledPaths, counts: npt.NDArray[np.int64], wanted: str) -> Problem:
    classes = count(len(images.classes), "class", "classes")
    return Problem(
        KEY,
        f"{folder} is too little to measure with.",
        found=f"{count(len(images), 'image')} of {classes}, {counts.min():,} to {counts.max():,} each",
        expected=wanted,
        action=f"put more labelled images there, {_NO_LABELS}",
    )


def _contents(request: Request, root: Path, found: dict[str, LabelledPaths]) -> Iterator[Problem]:
    """Whether every file can be decoded, and whether the same one is asked for and answered with."""
    paths = sorted({path for images in found.values() for path in images.paths})
    seen = look(root_of(root), paths, request.work / "checks" / "labelled.json")
    bad = [f"{path} ({seen[path].fault})" for path in paths if seen[path].fault]
    if bad:
        yield Problem(
            KEY,
            f"{count(len(bad), 'file')} among the labelled images cannot be used.",
            found=some(bad),
            expected="nothing but whole images: a score on silently dropped images would not be comparable",
            action="remove or replace " + ("it" if len(bad) == 1 else "them"),
        )
    yield from _same(found, seen)


def _same(found: dict[str, LabelledPaths], seen: dict[Path, _Seen]) -> Iterator[Problem]:
    labels: dict[str, set[str]] = defaultdict(set)
    for images in found.values():
        for path, label in zip(images.paths, images.labels, strict=True):
            if not seen[path].fault:
                labels[seen[path].sha256].add(images.classes[label])
    both = sorted(" and ".join(sorted(names)) for names in labels.values() if len(names) > 1)
    if both:
        yield Problem(
            KEY,
            f"{count(len(both), 'labelled image')} {'is' if len(both) == 1 else 'are'} in several classes.",
            found=some(both),
            action="leave each in one class",
            warning=True,
        )
    for (one, bank), (other, queries) in pairwise(found.items()):
        known = {seen[path].sha256 for path in bank.paths if not seen[path].fault}
        shared = [str(path) for path in queries.paths if seen[path].sha256 in known]
        if shared:
            yield Problem(
                KEY,
                f"{len(shared):,} of the {len(queries):,} images of {other} {'is' if len(shared) == 1 else 'are'} in "
                f"{one} as well: a score on {'it' if len(shared) == 1 else 'them'} says nothing.",
                found=some(shared),
                action=f"take {'it' if len(shared) == 1 else 'them'} out of {other}",
                warning=len(shared) <= _LEAK * len(queries),
            )


def look(root: Path, paths: list[Path], remembered: Path) -> dict[Path, _Seen]:
    """What each file is, from memory where it has not changed since.

    Args:
        root: What paths are remembered relative to.
        paths: The files.
        remembered: The JSON file of what was seen before.
    """
    before = _recall(remembered, root)
    stats = {path: path.stat() for path in paths}
    seen = {
        path: known
        for path, status in stats.items()
        if (known := before.get(shown_from(root, path)))
        and (known.size, known.changed) == (status.st_size, status.st_mtime_ns)
    }
    missing = [path for path in paths if path not in seen]
    if not missing:
        return seen
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, progress("checks: labelled images", len(missing)) as bar:
        for path, one in zip(missing, pool.map(_look_at, missing), strict=True):
            seen[path] = one
            bar.advance(1)
    # Stages read different parts of it: what another one saw stays remembered.
    files = before | {shown_from(root, path): one for path, one in sorted(seen.items())}
    document = {"version": _VERSION, "root": root.absolute().as_posix(), "files": files}
    remember(remembered, json.dumps(document, ensure_ascii=True) + "\n")
    return seen


def _look_at(path: Path) -> _Seen:
    status = path.stat()
    try:
        data = path.read_bytes()
        decode_image(data, min_side=_SIDE)
    except DecodeError as error:
        if error.kind != "value_range":  # what is black and white in them is said for the pool: see check_images
            return _Seen(status.st_size, status.st_mtime_ns, f"{error.countable}: {error.detail}", "")
    except OSError as error:
        return _Seen(status.st_size, status.st_mtime_ns, f"unreadable: {os.strerror(error.errno or 0)}", "")
    return _Seen(status.st_size, status.st_mtime_ns, "", hashlib.sha256(data).hexdigest())


def _recall(path: Path, root: Path) -> dict[str, _Seen]:
    """What was remembered; nothing when it is of another folder or version, or was damaged."""
    try:
        document = json.loads(recall(path) or "")
        if document["version"] != _VERSION or document["root"] != root.absolute().as_posix():
            return {}
        return {name: _Seen(*row) for name, row in document["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
