"""`dinomill deploy`: the package as a folder for Docker, compose and Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dinomill.commands.typed import Env, app, examples


@app.command(
    epilog=examples("dinomill deploy container", "dinomill deploy container --domain embed.example.org --hashes")
)
def deploy(
    folder: Annotated[Path, typer.Argument(help="Where it is written; a new folder, or one that was written before.")],
    domain: Annotated[str, typer.Option(help="The name under which clients reach it.")] = "localhost",
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Pin the files of Python's packages too; asks the package index.")
    ] = False,
    env: Env = None,
) -> None:
    """Write a folder that makes a container of the packaged model: Dockerfile, compose file, Kubernetes manifest."""
    from dinomill.commands.project import enter_project, result
    from dinomill.deployment.folder import Deployment, write_deployment
    from dinomill.layers import Layers
    from dinomill.serving.gateway.config import GatewayConfig
    from dinomill.serving.torchserve.properties import ServerConfig

    folder = folder.absolute()
    enter_project()
    said = Layers(env).parameters.get("packaging", {})
    wanted = Deployment(
        result("package", env),
        ServerConfig.parse(said.get("server", {}), where="packaging.server"),
        GatewayConfig.parse(said.get("gateway", {}), where="packaging.gateway"),
        domain,
        hashes,
    )
    write_deployment(folder, wanted)
    typer.echo(
        f"Written: {folder}\nREADME.md in it says how to go on; the first step is: docker compose up --build --detach"
    )
