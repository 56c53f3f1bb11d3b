"""Where things lie: sources that exist and hold something, results that can be written, and none of them in another.

What a stage writes is replaced whole: a source below such a folder would be deleted, and a result below a source would
be taken for a picture.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from dinomill.errors import DinomillError
from dinomill.planning.checks.others import results_in_sources
from dinomill.planning.checks.overwritten import overwritten_by
from dinomill.planning.checks.problems import Problem, count, some
from dinomill.planning.checks.request import Request
from dinomill.stages import STAGES

# DVC hashes a folder's content before any stage runs, and stops at these; curation alone writes them down and goes on.
_STOPS_DVC = {
    "broken_link": "link to nothing",
    "not_a_file": "pipe, socket or device",
    "name_not_utf8": "name that is not UTF-8",
    "unreadable": "file or folder without the right to read it",
}


def check_places(request: Request) -> Iterator[Problem]:
    """Sources and results."""
    if request.runs("curation"):
        yield from _sources(request)
    yield from _nesting(request)
    yield from _writable(request)


def _sources(request: Request) -> Iterator[Problem]:
    if not request.pool:
        yield Problem(
            "pool",
            "No pool of images is configured.",
            found=f"pool: {request.settings.get('pool')}",
            expected="folders, tar archives, manifests or s3:// prefixes",
            action="set `pool` to where your images lie",
        )
    try:
        request.tiles  # noqa: B018 (read for what is wrong with it)
    except DinomillError as error:
        yield Problem.of(error, "pool")
        return
    given = request.settings.get("seeds")
    if given and not request.seeds:
        yield Problem(
            "seeds",
            "The seeds are no mapping from a name to a place.",
            found=repr(given)[:200],
            expected="seeds: {examples: path/to/good/images}",
            action="give each set of seeds a name",
        )
    for key, place in request.named:
        if key != "labelled" and not request.will_be_made(place) and not request.holds_results(place):
            yield from _source(request, key, place)
    if request.curation:
        yield from _seed_sets(request)


def _source(request: Request, key: str, place: str) -> Iterator[Problem]:
    """One folder, archive, manifest or prefix."""
    try:
        items = request.listing(place)
    except DinomillError as error:
        # What is there says itself what is wrong with it: a folder that may not be listed.
        action = (error.action if Path(place).exists() else None) or "correct the path"
        if "01_raw/sample" in place or "01_raw/fashion" in place:
            verb = "dinomill sample --env fashion" if "01_raw/fashion" in place else "dinomill sample"
            action = f"run `{verb}` to lay out the sample; for your own images: `dinomill init NAME --pool PATH`"
        yield Problem(key, error.problem, error.found, error.expected, action)
        return
    except (OSError, ValueError) as error:  # a damaged Parquet or CSV file says so in its reader's own words
        yield Problem(key, f"{place} cannot be read.", found=str(error).splitlines()[0], action="write it again")
        return
    if not items:
        yield Problem(
            key,
            f"{place} is empty.",
            found="no file in it that may be an image",
            expected="image files, in any sub-folders",
            action="put images there, or name another place",
        )
    odd = [(item.path, _STOPS_DVC[item.fault]) for item in items if item.fault in _STOPS_DVC]
    if odd and "://" not in place and Path(place).is_dir():
        yield _unfit(key, place, odd, warning=True)


def unfit_for_dvc(request: Request) -> Iterator[Problem]:
    """What would stop DVC, or make it wait for ever, in the folders that it watches: to be asked before DVC is.

    A stage whose images lie where its results do waits for itself: DVC then refuses the whole project. A network that
    lies there would be deleted as an old result before the stage could refuse it.
    """
    nested = [*_nested_sources(request), *results_in_sources(request), *overwritten_by(request, STAGES)]
    yield from nested
    if nested:
        return
    for key, place in request.named:
        if "://" in place or not Path(place).is_dir():
            continue
        odd = list(_odd(place))
        if odd:
            yield _unfit(key, place, odd, warning=False)


def _odd(folder: str) -> Iterator[tuple[str, str]]:
    """Such entries below a folder; names, kinds and rights alone are looked at: tens of thousands take no time."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name != os.fsencode(entry.name).decode("utf-8", "replace"):
                        yield entry.path, _STOPS_DVC["name_not_utf8"]
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_symlink() and not Path(entry.path).exists():
                        yield entry.path, _STOPS_DVC["broken_link"]
                    elif not (entry.is_file() or entry.is_dir()):
                        yield entry.path, _STOPS_DVC["not_a_file"]
                    elif not os.access(entry.path, os.R_OK):
                        yield entry.path, _STOPS_DVC["unreadable"]
        except OSError:
            yield here, _STOPS_DVC["unreadable"]


def _unfit(key: str, place: str, odd: Sequence[tuple[str, str]], *, warning: bool) -> Problem:
    kinds = Counter(kind for _, kind in odd)
    counts = ", ".join(f"{many:,} × {what}" for what, many in kinds.items())
    return Problem(
        key,
        f"{place} holds what DVC cannot read: `dvc repro` would stop at it, or wait for ever.",
        found=f"{counts}: {some([_shown(path) for path, _ in odd])}",
        action="remove it, rename it or give this user the right to read it"
        + ("" if any(Path(path).is_dir() for path, _ in odd) else "; `kedro run` alone leaves it out and goes on"),
        warning=warning,
    )


def _shown(path: str) -> str:
    """A path as text that can be printed: bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _seed_sets(request: Request) -> Iterator[Problem]:
    """Settings for sets that there are; sets that are taken whole and are not in the pool as well."""
    assert request.curation is not None
    retrieval = request.curation.retrieval
    if not (retrieval.sets or retrieval.default.as_is):
        return  # nothing to get wrong, and the stage takes a second to import
    from dinomill.curation.stage import taken_whole

    try:
        taken_whole(request.seeds, request.pool, request.curation)
    except DinomillError as error:
        yield Problem.of(error, "curation.retrieval.sets")


def _nested_sources(request: Request) -> Iterator[Problem]:
    written = {name: folder.resolve() for name, folder in request.written.items()}
    for key, place in request.named:
        if "://" in place:
            continue
        path = Path(place).resolve()
        around = [name for name, folder in written.items() if path.is_relative_to(folder)]
        inside = [name for name, folder in written.items() if folder.is_relative_to(path) and folder != path]
        if around:
            yield Problem(
                key,
                f"{place} lies in a folder that a stage replaces whole: your images would be deleted.",
                found=f"folders.{around[0]}: {request.folders[around[0]]}",
                action="keep your images elsewhere, such as data/01_raw, or set the folder to another place",
            )
        elif inside:
            yield Problem(
                key,
                f"Stages write into {place}: their results would be taken for images.",
                found=some([f"{request.folders[name]} (folders.{name})" for name in inside], 2),
                action="name the folder that holds the images alone, or write elsewhere",
            )


def _nesting(request: Request) -> Iterator[Problem]:
    yield from _nested_sources(request)
    for (one, first), (other, second) in combinations(request.written.items(), 2):
        if {one, other} == {"work", "cache"} and first != second:
            continue  # neither is ever replaced whole
        if first.is_relative_to(second) or second.is_relative_to(first):
            yield Problem(
                f"folders.{other}",
                f"The folders of {one} and {other} lie in each other: one stage would delete what the other wrote.",
                found=f"{request.folders[one]} and {request.folders[other]}",
                action="give each a folder of its own",
            )


def _writable(request: Request) -> Iterator[Problem]:
    """Every folder can be made and written; the nearest part of it that exists says so."""
    refused: dict[Path, list[str]] = {}
    for name, folder in request.folders.items():
        here = folder.absolute()
        nearest = next((path for path in (here, *here.parents) if path.exists() or path.is_symlink()), here)
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            refused.setdefault(nearest, []).append(name)
    for nearest, names in refused.items():
        is_folder = nearest.is_dir()
        yield Problem(
            f"folders.{names[0]}",
            f"{count(len(names), 'folder')} of results cannot be written.",
            found=f"{nearest} {'may not be written by this user' if is_folder else 'is no folder'} (for {some(names)})",
            action="give this user the right to write there, or set another folder"
            if is_folder
            else "move that file away, or set another folder",
        )
