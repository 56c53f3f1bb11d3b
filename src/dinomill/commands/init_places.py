"""The places behind `dinomill init`: that each is one, and that none lies where it makes no sense."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path

from dinomill.errors import InputError

_TEST = "test"  # the split that is scored
_SOURCE = "a folder of images, a .tar, a .parquet or .csv manifest, or s3://bucket/prefix"
_LAYOUT = "a folder <split>/<class>/<image>, splits train and test"


def require_text(text: str, option: str, what: str) -> str:
    """Refuse an empty value, which would be read as the working directory.

    Raises:
        InputError: With the likely cause.
    """
    if not text.strip():
        raise InputError(
            f"{option} is empty.",
            found="nothing" if not text else "blanks alone",
            expected=what,
            action="is it an unset variable of the shell? Name the place itself, or leave the option out",
        )
    return text


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that no system takes is none."""
    return os.path.exists(path)  # noqa: PTH110 (pathlib raises where a name is too long)


def require_address(start: str, option: str = "--from") -> str:
    """Refuse weights that have no name, or one that no configuration file can hold.

    Raises:
        InputError: With what to do.
    """
    require_text(start, option, "a file of weights, or an address of some: models:/NAME@champion")
    return _require_plain(start, option)


def place(location: str, root: Path, option: str) -> str:
    """A location as it goes into the configuration: relative to the project where it lies in it.

    Raises:
        InputError: When there is no such place.
    """
    kind = _LAYOUT if option == "--labelled" else _SOURCE
    require_text(location, option, kind)
    _require_plain(location, option)
    if "://" in location:
        if not location.startswith("s3://"):
            raise InputError(
                f"{option} {location} is no place that can be read.", expected="a path, or s3://bucket/prefix"
            )
        return location
    path = Path(location)
    if not exists(path):
        raise InputError(
            f"There is no {location}.",
            expected=f"{option}: {kind}",
            action=_nearest(path),
        )
    full = Path(os.path.abspath(path))  # noqa: PTH100 (a link stays what the user named)
    base = Path(os.path.abspath(root))  # noqa: PTH100
    found = full.relative_to(base).as_posix() if full.is_relative_to(base) else full.as_posix()
    return _require_plain(found, option)


def require_apart(
    name: str, pool: Sequence[str], seeds: Mapping[str, str], labelled: str | None, root: Path
) -> list[str]:
    """Refuse places that lie in one another, or in the project's own folders, where that makes no sense.

    Args:
        name: Of the environment.
        pool: As they go into the configuration.
        seeds: By name.
        labelled: None: there is none.
        root: The project.

    Returns:
        Sentences on what makes sense, but should be known.

    Raises:
        InputError: Naming both places.
    """
    named = [("--pool", text) for text in pool] + [(f"--seeds {key}", text) for key, text in seeds.items()]
    named += [("--labelled", labelled)] if labelled else []
    for option, text in named:
        if "://" not in text:
            _require_outside(option, text, name, root)
    _require_apart_pools(pool, root)
    _require_apart_seeds(pool, seeds, root)
    return [] if labelled is None else _labelled_notes(pool, seeds, labelled, root)


def _require_outside(option: str, text: str, name: str, root: Path) -> None:
    """No source holds the project's results, nor lies among them."""
    real, project = (root / text).resolve(), root.resolve()
    if project.is_relative_to(real):
        raise InputError(
            f"{option} {text} is the project's own folder, or holds it.",
            found=str(real),
            expected="a folder of images alone",
            action="name the folder that holds the images",
        )
    results = project / "data"
    if results.resolve().is_relative_to(real):
        raise InputError(
            f"{option} {text} holds the project's results: they would be taken for images.",
            found=str(real),
            expected="a folder of images alone, such as data/01_raw/NAME",
            action="name the folder that holds the images",
        )
    for own in (results / name, results / "work"):
        if real.is_relative_to(own.resolve()):
            raise InputError(
                f"{option} {text} lies in a folder that the run writes: the images would be deleted.",
                found=f"{own.relative_to(project)} is where results go",
                expected="a folder of images alone, such as data/01_raw/NAME",
                action="move the images elsewhere, or give the environment another name",
            )
    if any(real == project / own or (project / own) in real.parents for own in ("conf", "src", ".git", ".dvc")):
        raise InputError(
            f"{option} {text} is a part of the project itself.",
            found=str(real),
            expected="a folder of images alone",
            action="name the folder that holds the images",
        )


def _require_apart_pools(pool: Sequence[str], root: Path) -> None:
    for inner, outer in permutations(pool, 2):
        if _within(inner, outer, root):
            raise InputError(
                f"--pool {inner} lies within --pool {outer}: its images would be counted twice.",
                action=f"leave out --pool {inner}: folders are searched recursively",
            )


def _require_apart_seeds(pool: Sequence[str], seeds: Mapping[str, str], root: Path) -> None:
    for (one, first), (other, second) in combinations(seeds.items(), 2):
        if _within(first, second, root) and _within(second, first, root):
            raise InputError(
                f"--seeds {one} and --seeds {other} are the same place.", found=first, action="name each place once"
            )
    for key, text in seeds.items():
        for place_ in pool:
            if _within(place_, text, root):
                same = "is" if _within(text, place_, root) else "holds"
                raise InputError(
                    f"--seeds {key} {same} the pool {place_}: every image would be like the seeds, and all be kept.",
                    found=text,
                    expected="a folder of good examples; some hundreds do",
                    action="copy some good images into a folder of their own, or leave --seeds out to keep everything",
                )


def _labelled_notes(pool: Sequence[str], seeds: Mapping[str, str], labelled: str, root: Path) -> list[str]:
    notes = []
    for text in pool:
        if _within(text, labelled, root):
            raise InputError(
                f"--pool {text} {'is' if _within(labelled, text, root) else 'lies within'} --labelled {labelled}.",
                found="labelled images are never trained on: curation takes them, and copies of them, out of the pool",
                expected="other images to learn from than those that are scored",
                action="name another pool, or leave --labelled out",
            )
        if _within(labelled, text, root):
            notes.append(
                f"The labelled images lie within the pool {text}: they count as its images here, and curation takes "
                "them out, since they are never trained on."
            )
    for key, text in seeds.items():
        inside = _within(text, labelled, root)
        if _within(labelled, text, root) or _within(text, f"{labelled}/{_TEST}", root):
            raise InputError(
                f"--seeds {key} holds images that are scored: what is kept would be chosen by them.",
                found=f"{text} and {labelled}/{_TEST}",
                expected="examples apart from the split test",
                action="name other good examples, or a class of the split train",
            )
        if inside:
            notes.append(
                f"The seeds {key} are labelled images themselves: they choose what is kept, and none is trained on."
            )
    return notes


def _within(inner: str, outer: str, root: Path) -> bool:
    """Whether a place is another or lies in it, links followed."""
    if "://" in inner or "://" in outer:
        one, other = inner.rstrip("/") + "/", outer.rstrip("/") + "/"
        return one.startswith(other)
    return (root / inner).resolve().is_relative_to((root / outer).resolve())


def _require_plain(text: str, option: str) -> str:
    """Refuse a name that no configuration file can hold.

    A line break would end the comment that it is named in; ``${`` begins a reference.
    """
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter in "\u2028\u2029\ufeff" for letter in text):
        wrong = "a line break or another control character"
    elif any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        wrong = "bytes that are not UTF-8"
    elif "${" in text:
        wrong = "${, which begins a reference in configuration files"
    else:
        return text
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    raise InputError(
        f"{option} cannot be written into a configuration file.",
        found=f"{wrong}: {shown!r}",
        action="rename it, or name a link to it: `ln -s THAT data/01_raw/NAME`",
    )


def _nearest(path: Path) -> str:
    """What there is instead."""
    above = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    names = sorted(entry.name for entry in above.iterdir() if entry.is_dir() and not entry.name.startswith("."))[:6]
    return f"correct the path; in {above} there are the folders {', '.join(names)}" if names else "correct the path"
