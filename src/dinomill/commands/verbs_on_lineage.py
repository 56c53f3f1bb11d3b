"""The verbs that follow what came of what: `dinomill lineage`, `withdraw`, `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dinomill.commands.typed import Env, app, examples


@app.command(
    epilog=examples(
        "dinomill lineage   (what there is)",
        "dinomill lineage models:/dinomill-backbone@champion",
        "dinomill lineage data/01_raw/sample/pool/a.png --picture lineage.svg",
        "dinomill lineage 73d2afbf --images images.csv",
    )
)
def lineage(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="THING",
            help="A version (models:/name@alias, name/3, 3), an archive (.mar), an export, an image (path or sha256), "
            "the hash of a dataset, of weights or of DVC, the id of a run or of a request, or a commit.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw it too: .svg, .png or .html.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FILE",
            help="List the images that made it: .csv or .parquet. Of an image: look it up in that list.",
        ),
    ] = None,
    env: Env = None,
) -> None:
    """Show what something came of and what came of it, from images to endpoints; and what is not at hand."""
    from dinomill.commands.lineage import show_lineage
    from dinomill.commands.project import enter_project

    here = Path.cwd()
    enter_project()
    show_lineage(name, here, env=env, as_data=json, picture=picture, images=images)


@app.command(
    epilog=examples(
        'dinomill withdraw data/pool/a.png --because "asked by the person shown"',
        "dinomill withdraw 2e126021310b33d6 --because … --copies --dry-run",
        "dinomill withdraw data/pool/a.png --undo",
    )
)
def withdraw(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Paths, or sha256 of their bytes.")],
    because: Annotated[
        str, typer.Option("--because", metavar="TEXT", help="Why; it stands in the list, which is in git.")
    ] = "",
    copies: Annotated[
        bool | None,
        typer.Option("--copies/--no-copies", help="Withdraw near copies too, or keep them; by default it is asked."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take them, and what left as their copies, back.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be.")] = False,
) -> None:
    """Take images out of every dataset that is made from now on, and say what they touched.

    They stand in conf/withdrawn.csv, by what they hold: renamed or added again, they stay out. Nothing is deleted:
    what has to be made again, and what still holds them, is said with its commands.
    """
    from dinomill.commands.project import enter_project
    from dinomill.commands.reason import reason
    from dinomill.commands.withdraw import take_back
    from dinomill.commands.withdraw import withdraw as take_out
    from dinomill.errors import InputError

    here = Path.cwd()
    enter_project()
    if undo:
        take_back(images, here, dry_run=dry_run)
        return
    why = reason(because)
    if not why:
        raise InputError("Nothing says why.", action='add --because "…": it stands in the list of withdrawn images')
    take_out(images, here, because=why, copies=copies, dry_run=dry_run)


@app.command(
    epilog=examples("dinomill reproduce champion", "dinomill reproduce models:/dinomill-backbone/3 --into again")
)
def reproduce(
    version: Annotated[
        str,
        typer.Argument(help="models:/name/version, models:/name@alias, or a number or alias of this project's model."),
    ],
    into: Annotated[
        Path | None, typer.Option("--into", help="A new folder; by default PROJECT-MODEL-VERSION beside the project.")
    ] = None,
    env: Env = None,
) -> None:
    """Make a registered version again from its commit, dataset and settings, and compare the weights.

    The exit code is 0 when they are the same, 1 when they are not: how far they lie apart is said, and what differed.
    """
    from dinomill.commands.project import enter_project
    from dinomill.commands.reproduce import reproduce as make_again
    from dinomill.tracking import store_at_work

    into = None if into is None else into.absolute()
    root = enter_project()
    with store_at_work(env):
        raise typer.Exit(make_again(root, version, into, env))
