"""`dinomill lineage`: the thread from images to endpoints, and back."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dinomill.errors import InputError
from dinomill.lineage.find import find
from dinomill.lineage.gather import Gathered, not_in_any
from dinomill.lineage.images import Wanted, image_key, rows_listed, write_list
from dinomill.lineage.picture import write_picture
from dinomill.lineage.show import as_json, as_text, overview
from dinomill.lineage.thread import Kind, Thing, Thread

_HEX = re.compile(r"[0-9a-fA-F]{6,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 3  # places of an image in a list that are named


def show_lineage(
    name: str | None, here: Path, *, env: str | None, as_data: bool, picture: Path | None, images: Path | None
) -> None:
    """Print what a thing came of and what came of it.

    Args:
        name: What it is called; None: an overview of all that there is.
        here: Where that was typed.
        env: The environment whose model a bare number means a version of.
        as_data: As JSON.
        picture: A file to draw it in.
        images: A file for the list of images that made it; of an image the list that it is looked up in.

    Raises:
        InputError: When the name means nothing here, or several things.
    """
    gathered = Gathered(Path.cwd(), env)
    listed = None if images is None else here / images
    wanted = [] if name is None else _find(gathered, name, here, env, listed)
    of_images = bool(wanted) and all(thing.kind is Kind.IMAGE for thing in wanted)
    if listed is not None and of_images:
        for thing in wanted:
            _look_up(thing, listed)
    part = gathered.thread.around(wanted) if wanted else gathered.thread
    text = as_text(part, wanted) if wanted else overview(part)
    if picture is not None:
        write_picture(part, wanted, text, here / picture)
    if listed is not None and not of_images:
        _list_images(gathered, part, wanted, listed)
    print(
        json.dumps(as_json(part, wanted), indent=2, ensure_ascii=False) if as_data else text,
        end="" if not as_data else "\n",
    )


def _find(gathered: Gathered, name: str, here: Path, env: str | None, listed: Path | None) -> list[Thing]:
    """What a name means; an image that nothing here knows may stand in the list, as where no dataset is at hand."""
    try:
        return find(gathered, name, here, env)
    except InputError:
        if listed is None or not listed.is_file():
            raise
        text = name.strip()
        prefix = text.lower() if _HEX.fullmatch(text) else ""
        rows, _ = rows_listed(listed, Wanted(prefix=prefix, paths={text}))
        if not rows:
            raise
        found = {image_key(row, {text}): row for row in rows}
        return [
            gathered.thread.add(
                Kind.IMAGE, key, f"{row['source']}/{row['path']}", known=not_in_any(gathered.results.manifests)
            )
            for key, row in found.items()
        ]


def _look_up(image: Thing, file: Path) -> None:
    """Say whether an image stands in a list that was written before."""
    if not file.is_file():
        raise InputError(
            f"There is no list {file}.",
            expected=f"a list to look {image.title} up in",
            action="write one first, of a dataset, a network, a version or an archive: dinomill lineage HASH "
            "--images FILE.csv",
        )
    wanted = Wanted(hashes=[image.id]) if _SHA256.fullmatch(image.id) else Wanted(paths=[image.id])
    rows, count = rows_listed(file, wanted)
    places = [f"{row['source']}/{row['path']}" for row in rows]
    more = f", and {len(places) - _MOST} more" if len(places) > _MOST else ""
    image.facts[f"in {file.name}"] = (
        f"yes: {', '.join(places[:_MOST])}{more}" if places else f"no: none of its {count:,} images"
    )


def _list_images(gathered: Gathered, part: Thread, wanted: list[Thing], file: Path) -> None:
    """Write the images of the dataset that was asked for, or that made what was asked for."""
    datasets = [
        one for one in part.of_kind(Kind.DATASET) if one in wanted or any(_reaches(part, one, w) for w in wanted)
    ]
    known = [one for one in datasets if one.id in gathered.results.manifests]
    if len(known) != 1:
        titles = ", ".join(one.title for one in datasets)
        raise InputError(
            "There is no one dataset whose images could be listed.",
            found=f"datasets: {titles or 'none'}; with a manifest at hand: {len(known)}",
            action=f"ask for one of them: dinomill lineage HASH --images FILE.csv{gathered.asked.option}",
        )
    write_list(gathered.results.manifests[known[0].id], file)


def _reaches(part: Thread, above: Thing, below: Thing) -> bool:
    seen, left = set(), [above]
    while left:
        one = left.pop()
        if one.key == below.key:
            return True
        if one.key not in seen:
            seen.add(one.key)
            left += [other for other, _ in part.below(one)]
    return False
