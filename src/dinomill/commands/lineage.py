"""`dinomill lineage`: the thread from images to endpoints, and back."""

from __future__ import annotations

import json
from pathlib import Path

from dinomill.errors import InputError
from dinomill.layers import env_option
from dinomill.lineage.find import find
from dinomill.lineage.gather import Gathered
from dinomill.lineage.images import write_list
from dinomill.lineage.picture import write_picture
from dinomill.lineage.show import as_json, as_text, overview
from dinomill.lineage.thread import Kind, Thing, Thread


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
        images: A file for the list of images that made it.

    Raises:
        InputError: When the name means nothing here, or several things.
    """
    gathered = Gathered(Path.cwd(), env)
    wanted = [] if name is None else find(gathered, name, here, env)
    part = gathered.thread.around(wanted) if wanted else gathered.thread
    text = as_text(part, wanted) if wanted else overview(part)
    if picture is not None:
        write_picture(part, wanted, text, here / picture)
    if images is not None:
        _list_images(gathered, part, wanted, here / images, env)
    print(
        json.dumps(as_json(part, wanted), indent=2, ensure_ascii=False) if as_data else text,
        end="" if not as_data else "\n",
    )


def _list_images(gathered: Gathered, part: Thread, wanted: list[Thing], file: Path, env: str | None) -> None:
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
            action=f"ask for one of them: dinomill lineage HASH --images FILE.csv{env_option(env)}",
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
