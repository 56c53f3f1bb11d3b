"""What was typed behind `dinomill init`, checked, with everything counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from dinomill.commands.init_places import exists, place, require_address, require_apart
from dinomill.errors import ConfigError, InputError
from dinomill.images.tiles import TileConfig
from dinomill.planning.choices import Given, Size, Start, Wish

_LEAST_HOURS = 0.0166  # a minute: stages take longer to start
_MOST_HOURS = 8760


def make_wish(
    name: str,
    pool: Sequence[str],
    seeds: Sequence[str],
    labelled: str | None,
    start: str | None,
    hours: float,
    size: Size | None,
    root: Path,
    tiles: int | None = None,
    licence: str | None = None,
    teacher: str | None = None,
) -> Wish:
    """What was typed, checked and with everything counted.

    Raises:
        InputError: When a place is missing or not laid out as it must be.
        ConfigError: When an option is not in its range.
    """
    _check_hours(hours)
    if start is not None and teacher is not None:
        raise ConfigError(
            "--from and --teacher are two ways: weights are adapted and taught from, or a teacher is used as it is.",
            found=f"--from {start} and --teacher {teacher}",
            action="leave one of the two out",
        )
    if licence is not None and start is None and teacher is None:
        raise ConfigError(
            "--licence is that of the weights to start from or of the teacher, and none are given.",
            found=f"--licence {licence}, no --from and no --teacher",
            action="give --from WEIGHTS or --teacher ADDRESS, or set pretraining.licence in the environment's files",
        )
    if start is not None and size is not None:
        raise ConfigError(
            "--size says nothing beside --from: the weights are of the size that they are.",
            found=f"--from {start} and --size {size}",
            action="leave one of the two out",
        )
    places = [place(location, root, "--pool") for location in pool]
    if repeated := sorted({where for where in places if places.count(where) > 1}):
        raise InputError("--pool names a place twice.", found=", ".join(repeated), action="name each place once")
    sets = _seeds(seeds, root)
    splits: dict[str, int] = {}
    if labelled is not None:
        labelled = place(labelled, root, "--labelled")
        splits = count_labelled(labelled)
    notes = require_apart(name, places, sets, labelled, root)
    return Wish(
        name=name,
        pool=tuple(places),
        tiles=None if tiles is None else TileConfig.parse({"side": tiles}, where="--tiles"),
        seeds=sets,
        seed_images=sum(_count(where, f"the seeds {set_name!r}") for set_name, where in sets.items()),
        labelled=labelled,
        **splits,
        hours=hours,
        size=size,
        start=None if start is None else read_start(require_address(start), licence),
        teacher=None if teacher is None else read_teacher(require_address(teacher, "--teacher"), licence),
        notes=tuple(notes),
    )


def _check_hours(hours: float) -> None:
    if not math.isfinite(hours) or hours > _MOST_HOURS:
        raise ConfigError(
            "--hours must be a number of hours.",
            found=f"{hours:g}",
            expected=f"a number, at most {_MOST_HOURS:,} (a year)",
            action="8 is a night",
        )
    if hours < _LEAST_HOURS:
        raise ConfigError(
            "--hours must be above 0." if hours <= 0 else "--hours is less than a minute.",
            found=f"{hours:g}",
            expected=f"at least {_LEAST_HOURS:g}, which is one minute",
            action="0.5 is half an hour",
        )


def from_here(text: str, here: Path) -> str:
    """A path typed in a sub-folder of the project, ``name=path`` too, as seen from the project's root."""
    name, sign, where = text.rpartition("=") if "=" in text and not exists(here / text) else ("", "", text)
    # Nothing at all would be the folder itself: an unset variable of the shell must not become the whole project.
    if not where.strip() or "://" in where or ":/" in where or not exists(here / where):
        return text
    return f"{name}{sign}{here / where}"


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


def _seeds(seeds: Sequence[str], root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in seeds:
        name, sign, where = text.partition("=")
        if not sign or not name:
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
        found[name] = place(where, root, f"--seeds {name}")
    return found


def _count(where: str, what: str) -> int:
    from dinomill.planning.pool_files import list_place

    count = len(list_place(where))
    if count == 0:
        raise InputError(f"{where} holds no file for {what}.", action="name a folder with good examples in it")
    return count


def count_labelled(folder: str) -> dict[str, int]:
    """Images of both splits, and classes.

    Raises:
        InputError: When it is not laid out so that evaluation can use it.
    """
    from dinomill.images.labelled import find_labelled
    from dinomill.images.labelled_table import is_table

    layout = (
        "set --labelled to a folder with train/<class>/<image> and test/<class>/<image>, or to a .csv or .parquet with "
        "the columns path, label, split; or leave it out"
    )
    if "://" in folder or not (Path(folder).is_dir() or (Path(folder).is_file() and is_table(folder))):
        raise InputError(
            f"--labelled {folder} is no folder of this machine.",
            expected="<split>/<class>/<image>, splits train and test",
            action=layout,
        )
    try:
        bank = find_labelled(Path(folder), "train")
        queries = find_labelled(Path(folder), "test", classes=bank.classes)
    except InputError as error:
        raise InputError(error.problem, found=error.found, expected=error.expected, action=layout) from None
    if len(bank.classes) < 2:
        raise InputError(
            f"The split train of {folder} has one class only.",
            found=", ".join(bank.classes),
            expected="two or more",
            action=layout,
        )
    return {"bank": len(bank), "queries": len(queries), "classes": len(bank.classes)}


def read_teacher(address: str, licence: str | None = None) -> Given:
    """What a plan needs to know of a teacher.

    Args:
        address: Of any network that gives features.
        licence: Its, where nothing says it.

    Raises:
        DinomillError: When it cannot be used; ``features`` says what it is.
    """
    from dinomill import features
    from dinomill.features.base import EFFICIENTNET
    from dinomill.licences import DISTILLED, Provenance, made_from
    from dinomill.models.config import VisionTransformerConfig

    description: Any = features.describe(address)
    made_from(DISTILLED, address, Provenance(description.licence, description.origin or ""), licence, key="--licence")
    model, settings = description.model, description.preprocessing
    if settings.channels not in (1, 3):
        raise InputError(
            f"{address} takes images of {settings.channels} channels.",
            expected="a teacher of grey images or of colours",
            action="name another one",
        )
    features.open(address)  # whole: what headers do not say, such as values that are no numbers, is found now
    return Given(
        address=address,
        family=description.family,
        image_size=settings.image_size,
        patch_size=model.patch_size if isinstance(model, VisionTransformerConfig) else None,
        any_size=model is not None or address == EFFICIENTNET,
        in_channels=settings.channels,
        parameters=description.parameters,
        licence=licence or description.licence,
        licence_stated=licence is not None,
    )


def read_start(address: str, licence: str | None = None) -> Start:
    """What a plan needs to know of weights.

    Args:
        address: Of the weights.
        licence: Theirs, where nothing says it.

    Raises:
        DinomillError: When they cannot be used; ``features`` says what they are.
    """
    from dinomill import features
    from dinomill.licences import STARTED, Provenance, made_from
    from dinomill.models.config import VisionTransformerConfig

    description: Any = features.describe(address)
    if not isinstance(description.model, VisionTransformerConfig):
        raise InputError(
            f"{address} is no vision transformer: it can be a teacher or an embedder, but nothing to continue from.",
            found=f"{description.family}",
            action="start from ViT weights: `dinomill weights` lists what is known",
        )
    model = description.model
    provenance = Provenance(description.licence, description.origin or "")
    made_from(STARTED, address, provenance, licence, key="--licence")  # refuses another than theirs
    features.open(address)  # whole, as above
    return Start(
        address=address,
        family=description.family,
        image_size=model.image_size,
        patch_size=model.patch_size,
        in_channels=model.in_channels,
        embed_dim=model.embed_dim,
        depth=model.depth,
        parameters=description.parameters,
        licence=licence or description.licence,
        licence_stated=licence is not None,
    )
