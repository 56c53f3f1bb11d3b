"""`dinomill package`: what the packaging stage made, for the server of one's choice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from dinomill.commands.typed import Env, app, examples


@app.command(
    epilog=examples(
        "dinomill package --target litserve",
        "dinomill package --target litserve --env photos --output /srv/photos",
        "dinomill package --target torchserve --output /srv/photos",
    )
)
def package(
    target: Annotated[
        Literal["torchserve", "litserve"], typer.Option("--target", help="The program that is to serve it.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder; by default beside the package, or the package itself."),
    ] = None,
    env: Env = None,
) -> None:
    """Make a folder from the package of the packaging stage, for another server: LitServe; or copy it, for TorchServe.

    For LitServe the folder is served for real and asked before it is kept.
    """
    from dinomill.commands.project import enter_project, result

    output = None if output is None else output.resolve()
    enter_project()
    place = result("package", env)
    if output is not None:
        _require_apart(place, output, itself=target == "torchserve")
    if target == "torchserve":
        _torchserve(place, output, env)
    else:
        _litserve(place, output, env)


def _require_apart(place: Path, output: Path, *, itself: bool) -> None:
    """Refuse a folder within the package, and one that holds it: replacing it would remove the package.

    Args:
        place: The package.
        output: The folder, resolved.
        itself: Whether the package itself may be named: nothing is written then.
    """
    from dinomill.errors import InputError

    package = place.resolve()
    if package == output and itself:
        return
    if output.is_relative_to(package) or package.is_relative_to(output):
        raise InputError(
            f"{output} cannot be written: it is the package, lies in it, or holds it.",
            found=f"the package in {package}",
            expected="a folder elsewhere",
        )


def _torchserve(place: Path, output: Path | None, env: str | None) -> None:
    from dinomill.handles import PackageHandle
    from dinomill.layers import env_option
    from dinomill.serving.torchserve.behind import require_whole
    from dinomill.storage.atomic import atomic_folder
    from dinomill.storage.left_behind import sweep
    from dinomill.storage.writable import require_place

    handle = PackageHandle.load(place)
    require_whole(place / handle.archive.parent.name / handle.archive.name, handle)
    if output is not None and output != place.resolve():
        require_place(output)
        sweep(output)
        _require_copy(output)
        with atomic_folder(output) as made:
            shutil.copytree(place, made, dirs_exist_ok=True)
    typer.echo(f"{output or place}: {handle.model}, version {handle.version}, computed by {handle.backend}")
    typer.echo("README.md in it says how to serve it elsewhere; here: dinomill serve" + env_option(env))


def _require_copy(output: Path) -> None:
    """Refuse to replace what no `dinomill package` copied: another stage's result, another environment's package."""
    from dinomill.errors import ConfigError, InputError
    from dinomill.handles import PackageHandle
    from dinomill.layers.project import project_above

    if not output.exists() or not any(output.iterdir()):
        return
    refusal = ConfigError(
        f"{output} holds something else.",
        expected="a new or empty folder, or a package that was copied there",
        action="name another folder, or remove this one",
    )
    try:
        before = PackageHandle.load(output)
    except (InputError, OSError):
        raise refusal from None
    if not (output / before.archive.parent.name / before.archive.name).is_file():
        raise refusal
    # A stage's own result lies where its handle says, relative to its project.
    for root in (Path.cwd(), project_above(output)):
        if root is not None and (root / before.folder).resolve() == output:
            refusal.found = "the result of a packaging stage"
            raise refusal


def _litserve(place: Path, output: Path | None, env: str | None) -> None:
    from dinomill.commands.project import folder as folder_of
    from dinomill.handles import PackageHandle
    from dinomill.layers import Layers
    from dinomill.packaging.config import SmokeConfig
    from dinomill.serving.gateway.config import GatewayConfig
    from dinomill.serving.litserve.folder import Target, require_installed, write_folder
    from dinomill.serving.litserve.places import folder_beside, note_folder
    from dinomill.serving.torchserve.behind import unlike_package
    from dinomill.serving.torchserve.properties import ServerConfig

    require_installed()
    said = Layers(env).parameters.get("packaging", {})
    smoke = SmokeConfig.parse(said.get("smoke", {}), where="packaging.smoke")
    wanted = Target(
        place,
        ServerConfig.parse(said.get("server", {}), where="packaging.server"),
        GatewayConfig.parse(said.get("gateway", {}), where="packaging.gateway"),
    )

    def check(made: Path) -> None:
        from dinomill.serving.litserve.trial import try_folder

        typer.echo("LitServe loads the model …", err=True)
        figures = try_folder(made, seconds=smoke.ready_seconds, min_cosine=smoke.min_cosine)
        typer.echo(
            "LitServe answers: {latency_ms:.0f} ms a picture, {seconds_to_ready:.0f} s until it was ready, "
            "cosine {cosine:.6f} to the model.".format(**figures)
        )

    folder = output or folder_beside(place)
    settings = write_folder(folder, wanted, check)
    if folder.resolve() != folder_beside(place).resolve():
        note_folder(folder_of("work", env), folder)
    typer.echo(f"{folder}: {settings.model}, version {settings.version}, computed by {settings.backend}")
    archive = PackageHandle.load(place).archive
    for line in unlike_package(place / archive.parent.name / archive.name, wanted.server):
        typer.echo(line)
    typer.echo(f"Start it: python {folder / 'server.py'} --port 8080")
