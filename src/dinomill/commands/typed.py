"""What the verbs share: the command line that they belong to, and options that several take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="dinomill",
    help="Raw images in, a served vision backbone out. Stages run with `kedro run --pipelines STAGE` or `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
dvc_app = typer.Typer(help="Keep dvc.yaml in step with the stages.", no_args_is_help=True)
app.add_typer(dvc_app, name="dvc")

Env = Annotated[
    str | None,
    typer.Option("--env", "-e", metavar="NAME", help="A folder of conf/; by default base with local."),
]

MODEL = (
    "An exported folder, models:/name@alias, or weights of DINOv2 or DINOv3 in any form (see `dinomill weights`); "
    "by default the version that the registration stage registered."
)
EVALUATED = (
    "A network: an exported folder, models:/name@alias, weights of DINOv2 or DINOv3 in any form, efficientnet-lite0, "
    ".onnx, OpenVINO's .xml, or torch.export's .pt2. May be repeated."
)
PATCHES = "A .npy file for the patch features, too: float16, images by rows by columns by width."
BACKEND = (
    "What computes: eager-bfloat16, compiled, onnxruntime, openvino, openvino-bfloat16, or, calibrated on images, "
    "openvino-int8 or onnxruntime-int8. Some times faster than PyTorch in float32, the default, and nearly the same: "
    "docs/packaging.md has figures."
)
SIZE = "Pixels, a whole number of patches; by default what the model was made for."


def examples(*commands: str) -> str:
    """The last part of a verb's help: commands to copy, each on a line of its own.

    Args:
        commands: As they are typed; behind three spaces may stand what one does.
    """
    lines = (command.partition("   ") for command in commands)
    shown = [f"  [bold]{command}[/]{gap}{said}" for command, gap, said in lines]
    return "\n".join([f"Example{'s' if len(shown) > 1 else ''}:", *shown])


def _project(value: Path | None) -> None:
    if value is not None:
        from dinomill.errors import InputError
        from dinomill.layers.project import GLOBALS, project_above

        root = project_above(value.absolute())
        if root is None:
            raise InputError(
                f"{value} is not in a dinomill project.",
                found=f"no {GLOBALS} there or in a folder above",
                action="name the project's folder, or one in it",
            )
        os.chdir(root)


def _version(value: bool) -> None:
    if value:
        from dinomill import __version__

        typer.echo(f"dinomill {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    project: Annotated[
        Path | None,
        typer.Option(
            "--project",
            "-p",
            metavar="FOLDER",
            callback=_project,
            help="Work in this project instead of the one around; other paths start there too.",
        ),
    ] = None,
) -> None:
    """Options before the verb."""
