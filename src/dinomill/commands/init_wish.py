"""What was typed behind `dinomill init`, checked, with everything counted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from dinomill.errors import ConfigError, InputError
from dinomill.planning.choices import Size, Start, Wish


def make_wish(
    name: str,
    pool: Sequence[str],
    seeds: Sequence[str],
    labelled: str | None,
    start: str | None,
    hours: float,
    size: Size | None,
    root: Path,
) -> Wish:
    """What was typed, checked and with everything counted.

    Raises:
        InputError: When a place is missing or not laid out as it must be.
        ConfigError: When an option is not in its range.
    """
    if hours <= 0:
        raise ConfigError("--hours must be above 0.", found=f"{hours:g}", action="0.5 is half an hour")
    places = [_place(location, root, "--pool") for location in pool]
    if repeated := sorted({place for place in places if places.count(place) > 1}):
        raise InputError("--pool names a place twice.", found=", ".join(repeated), action="name each place once")
    sets = _seeds(seeds, root)
    splits: dict[str, int] = {}
    if labelled is not None:
        labelled = _place(labelled, root, "--labelled")
        splits = count_labelled(labelled)
    return Wish(
        name=name,
        pool=tuple(places),
        seeds=sets,
        seed_images=sum(_count(place, f"the seeds {set_name!r}") for set_name, place in sets.items()),
        labelled=labelled,
        **splits,
        hours=hours,
        size=size,
        start=None if start is None else read_start(start),
    )


def from_here(text: str, here: Path) -> str:
    """A path typed in a sub-folder of the project, ``name=path`` too, as seen from the project's root."""
    name, sign, place = text.rpartition("=") if "=" in text and not (here / text).exists() else ("", "", text)
    if "://" in place or ":/" in place or not (here / place).exists():
        return text
    return f"{name}{sign}{here / place}"


def known_size(size: str | None) -> Size | None:
    """The size that was asked for.

    Raises:
        ConfigError: When there is none of that name.
    """
    sizes: tuple[Size, ...] = get_args(Size)
    for known in sizes:
        if size is not None and size.lower() == known.lower():
            return known
    if size is not None:
        raise ConfigError(f"There is no size {size!r}.", expected=", ".join(sizes), action="or leave --size out")
    return None


def _place(location: str, root: Path, option: str) -> str:
    """A location as it goes into the configuration: relative to the project where it lies in it."""
    if "://" in location:
        if not location.startswith("s3://"):
            raise InputError(
                f"{option} {location} is no place that can be read.", expected="a path, or s3://bucket/prefix"
            )
        return location
    path = Path(location)
    if not path.exists():
        raise InputError(
            f"There is no {location}.",
            expected=f"{option}: a folder of images, a .tar, a .parquet or .csv manifest, or s3://bucket/prefix",
            action=_nearest(path),
        )
    full = Path(os.path.abspath(path))  # noqa: PTH100 (a link stays what the user named)
    base = Path(os.path.abspath(root))  # noqa: PTH100
    return full.relative_to(base).as_posix() if full.is_relative_to(base) else full.as_posix()


def _nearest(path: Path) -> str:
    """What there is instead."""
    above = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    names = sorted(entry.name for entry in above.iterdir() if entry.is_dir() and not entry.name.startswith("."))[:6]
    return f"correct the path; in {above} there are the folders {', '.join(names)}" if names else "correct the path"


def _seeds(seeds: Sequence[str], root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in seeds:
        name, sign, place = text.partition("=")
        if not sign or not name or not place:
            raise InputError(
                "--seeds needs a name and a place.",
                found=text,
                expected="name=place: each set of examples has a name, which manifest and report use",
                action=f"--seeds examples={text.strip('=')}",
            )
        if not name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"{name!r} cannot be the name of a set of seeds.", expected="letters, digits, - and _")
        if name in found:
            raise InputError(f"--seeds names {name!r} twice.", action="give each set a name of its own")
        found[name] = _place(place, root, "--seeds")
    return found


def _count(place: str, what: str) -> int:
    from dinomill.curation.sources import list_items

    count = len(list_items(place))
    if count == 0:
        raise InputError(f"{place} holds no file for {what}.", action="name a folder with good examples in it")
    return count


def count_labelled(place: str) -> dict[str, int]:
    """Images of both splits, and classes.

    Raises:
        InputError: When it is not laid out so that evaluation can use it.
    """
    from dinomill.images.labelled import find_labelled

    if "://" in place or not Path(place).is_dir():
        raise InputError(
            f"--labelled {place} is no folder of this machine.",
            expected="<split>/<class>/<image>, splits train and test",
        )
    layout = "set --labelled to a folder with train/<class>/<image> and test/<class>/<image>, or leave it out"
    try:
        bank = find_labelled(Path(place), "train")
        queries = find_labelled(Path(place), "test", classes=bank.classes)
    except InputError as error:
        raise InputError(error.problem, found=error.found, expected=error.expected, action=layout) from None
    if len(bank.classes) < 2:
        raise InputError(
            f"{place}/train has one class only.", found=", ".join(bank.classes), expected="two or more", action=layout
        )
    return {"bank": len(bank), "queries": len(queries), "classes": len(bank.classes)}


def read_start(address: str) -> Start:
    """What a plan needs to know of weights.

    Raises:
        DinomillError: When they cannot be used; ``features`` says what they are.
    """
    from dinomill import features

    description: Any = features.describe(address)
    if description.model is None:
        raise InputError(
            f"{address} is no vision transformer: it can be a teacher or an embedder, but nothing to continue from.",
            found=f"{description.family}",
            action="start from ViT weights: `dinomill weights` lists what is known",
        )
    model = description.model
    return Start(
        address=address,
        family=description.family,
        image_size=model.image_size,
        patch_size=model.patch_size,
        in_channels=model.in_channels,
        embed_dim=model.embed_dim,
        depth=model.depth,
        parameters=description.parameters,
        licence=description.licence,
    )
