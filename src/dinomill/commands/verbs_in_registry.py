"""The verbs that decide on registered versions: `dinomill promote`, `rollback`, `versions`; and `tracking sync`."""

from __future__ import annotations

from typing import Annotated

import typer

from dinomill.commands.typed import Env, app, examples

tracking_app = typer.Typer(help="Runs that were recorded without their store.", no_args_is_help=True)
app.add_typer(tracking_app, name="tracking")

_Alias = Annotated[
    str | None, typer.Option("--alias", "-a", help="By default registration.aliases.champion of the environment.")
]


@tracking_app.command("sync", epilog=examples("dinomill tracking sync", "dinomill tracking sync --env cluster"))
def tracking_sync(env: Env = None) -> None:
    """Bring the runs that were recorded while their store was away to it: all, or those of one environment.

    The exit code is 1 when some were left.
    """
    from dinomill.commands.project import enter_project
    from dinomill.commands.tracking_sync import synchronise

    enter_project()
    raise typer.Exit(synchronise(env))


@app.command(
    epilog=examples(
        "dinomill promote 4",
        "dinomill promote candidate --alias champion-prod",
        'dinomill promote 4 --force --because "the new camera needs it"',
    )
)
def promote(
    version: Annotated[str, typer.Argument(help="A number, an alias, or models:/name/version.")],
    alias: _Alias = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the gate says; needs --because.")] = False,
    because: Annotated[str | None, typer.Option("--because", help="Why; recorded with the move.")] = None,
    env: Env = None,
) -> None:
    """Give a version an alias, if it is no worse than the version that has it.

    Both are measured on the environment's labelled images, paired, and by size, speed and neighbours: registration.gate
    says what is required. The exit code is 1 when it is refused.
    """
    from dinomill.commands.project import enter_project
    from dinomill.commands.promote import promote as give

    enter_project()
    raise typer.Exit(give(version, alias=alias, env=env, force=force, because=because))


@app.command(epilog=examples("dinomill rollback", "dinomill rollback --alias champion-prod --to 3"))
def rollback(
    alias: _Alias = None,
    to: Annotated[str | None, typer.Option("--to", help="A version, instead of the one before the last move.")] = None,
    because: Annotated[str | None, typer.Option("--because", help="Why; recorded with the move.")] = None,
    env: Env = None,
) -> None:
    """Take back the last move of an alias; once more, and that is taken back."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.promote import rollback as take_back

    enter_project()
    raise typer.Exit(take_back(alias=alias, to=to, env=env, because=because))


@app.command(epilog=examples("dinomill versions", "dinomill versions --env fashion"))
def versions(env: Env = None) -> None:
    """List the registered versions, who has which alias, and how it came to it."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.promote import show_versions

    enter_project()
    show_versions(env)
