"""`dinomill …`: what Kedro, DVC and MLflow have no verb for. Each verb imports what it needs when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dinomill.commands.failures import shown_to_the_user
from dinomill.execution.threads import wait_asleep

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

_MODEL = (
    "An exported folder, models:/name@alias, or weights of DINOv2 or DINOv3 in any form (see `dinomill weights`); "
    "by default the version that the registration stage registered."
)
_SIZE = "Pixels, a whole number of patches; by default what the model was made for."


def run() -> None:
    """Entry point: runs a verb, and shows a failure as one screen."""
    wait_asleep()
    with shown_to_the_user(" ".join(["dinomill", *sys.argv[1:2]])):
        app()


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
) -> None:
    """Options before the verb."""


@app.command(epilog="Example: [bold]dinomill doctor[/]")
def doctor(env: Env = None) -> None:
    """Say what is there, what is missing and what to do. The exit code is 1 when something needed is missing."""
    from dinomill.commands.doctor import examine, show

    raise typer.Exit(show(examine(env)))


@app.command(
    epilog="Examples: [bold]dinomill init photos --pool /data/photos[/]   "
    "[bold]dinomill init photos --pool /data/a --pool s3://team/b --seeds cats=/data/cats --labelled /data/labelled "
    "--hours 8[/]   [bold]dinomill init photos --pool /data/photos --from vits14.pth --force[/]"
)
def init(
    name: Annotated[str, typer.Argument(help="Of the environment: it becomes conf/NAME and data/NAME.")],
    pool: Annotated[
        list[str],
        typer.Option("--pool", help="Where the images lie: a folder, .tar, manifest or s3:// prefix. May be repeated."),
    ],
    seeds: Annotated[
        list[str] | None,
        typer.Option("--seeds", help="Good, unlabelled examples of what is wanted: name=place. May be repeated."),
    ] = None,
    labelled: Annotated[
        str | None, typer.Option("--labelled", help="<split>/<class>/<image>, splits train and test.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="WEIGHTS", help="Weights to start from: whatever `embed` takes.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", help="What the whole run may take.")] = 1.0,
    size: Annotated[
        str | None, typer.Option("--size", help="Of the model: tiny, S, B or L; by default as large as is sensible.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what conf/NAME holds.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Try some steps and measure them; else times are guessed.")
    ] = True,
) -> None:
    """Look at images, machine and time, and write an environment with all values and their reasons.

    Run again with other options it shows the difference, and writes it with --force only.
    """
    from dinomill.commands.init import init as make_environment
    from dinomill.commands.init_wish import from_here, known_size
    from dinomill.commands.project import enter_project

    here = Path.cwd()
    enter_project()
    raise typer.Exit(
        make_environment(
            name,
            pool=[from_here(place, here) for place in pool],
            seeds=[from_here(text, here) for text in seeds or ()],
            labelled=None if labelled is None else from_here(labelled, here),
            start=None if start is None else from_here(start, here),
            hours=hours,
            size=known_size(size),
            force=force,
            probe=probe,
        )
    )


@app.command(epilog="Examples: [bold]dinomill plan[/]   [bold]dinomill plan --env fashion[/]")
def plan(env: Env = None) -> None:
    """Show which stages `make run` would run, and why, without running any. Brings dvc.yaml up to date before.

    Says how long it will take, and what has to be put right first; the exit code is then 1.
    """
    from dinomill.commands.ahead import look_ahead, require_fit_for_dvc
    from dinomill.commands.dvc_sync import dvc_file, synchronise
    from dinomill.commands.plan import make_plan, show
    from dinomill.commands.project import enter_project

    root = enter_project()
    require_fit_for_dvc(env)
    synchronise(root, env=env, quiet=True)
    steps = make_plan(dvc_file(env))
    ahead = look_ahead(env, {step.stage: step.verdict != "up to date" for step in steps})
    show(steps, dvc_file(env), ahead)
    raise typer.Exit(1 if ahead.stopping else 0)


@app.command(
    epilog="Example: [bold]dinomill sample[/]   or, to train on all 60,000 images: [bold]dinomill sample --full[/]"
)
def sample(
    full: Annotated[
        bool, typer.Option("--full", help="Fetch the full Fashion-MNIST instead of the part shipped.")
    ] = False,
) -> None:
    """Lay out the demo's images: a messy pool, a few good examples, a labelled split."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.stages import lay_out_sample

    enter_project()
    lay_out_sample(full=full)


@app.command(epilog="Examples: [bold]dinomill summary[/]   [bold]dinomill summary --env fashion[/]")
def summary(env: Env = None) -> None:
    """Show what the last run left: kept and removed images, accuracy by model, version, served answer."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.stages import show_summary

    enter_project()
    show_summary(env)


@app.command(epilog="Examples: [bold]dinomill report[/]   [bold]dinomill report --env fashion[/]")
def report(env: Env = None) -> None:
    """Open the page of the last run in the browser, and say where it lies."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.stages import open_report

    enter_project()
    open_report(env)


@app.command(epilog="Examples: [bold]dinomill ui[/]   [bold]dinomill ui --port 5050[/]")
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
    env: Env = None,
) -> None:
    """Serve the MLflow page on 127.0.0.1: runs, curves and registered models. Ctrl-C ends it."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.ui import serve_ui

    enter_project()
    serve_ui(port, env)


@app.command(epilog="Examples: [bold]dinomill serve[/]   [bold]dinomill serve --port 9000[/]")
def serve(
    port: Annotated[
        int, typer.Option(help="Port of the predictions; the next two are used as well.", min=1, max=65533)
    ] = 8080,
    env: Env = None,
) -> None:
    """Serve the packaged model with TorchServe on 127.0.0.1. Ctrl-C ends it."""
    from dinomill.commands.project import enter_project, folder
    from dinomill.serving.torchserve.serve import serve as serve_package

    enter_project()
    serve_package(folder("package", env), port=port, run=folder("work", env) / "serve")


@app.command(
    epilog="Examples: [bold]dinomill embed photos/ --output photos.parquet[/]   "
    "[bold]dinomill embed a.jpg b.png -o two.npy --model dinov2_vits14_pretrain.pth[/]"
)
def embed(
    sources: Annotated[list[Path], typer.Argument(help="Images, or folders that are searched recursively.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .parquet or .npy file.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help=_MODEL)] = None,
    batch_size: Annotated[int, typer.Option(help="Images computed at once.", min=1)] = 64,
    image_size: Annotated[int | None, typer.Option(help=_SIZE, min=1)] = None,
    env: Env = None,
) -> None:
    """Compute one embedding an image."""
    from dinomill.commands.embed import embed_files
    from dinomill.commands.project import enter_project

    sources, output = [path.absolute() for path in sources], output.absolute()
    if model is None:
        enter_project()
    embed_files(sources, output, model=model, batch_size=batch_size, image_size=image_size, env=env)


@app.command(
    epilog="Examples: [bold]dinomill export onnx backbone.onnx[/]   "
    "[bold]dinomill export pth vits14.pth --model models:/dinomill-backbone@champion[/]"
)
def export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="pth, safetensors, pt2, onnx or openvino.")],
    output: Annotated[Path, typer.Argument(help="The file to write; its suffix becomes the format's.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help=_MODEL)] = None,
    env: Env = None,
) -> None:
    """Write the model in a form that other runtimes read, after comparing it with the model itself."""
    from dinomill.commands.export import export_model
    from dinomill.commands.project import enter_project

    output = output.absolute()
    if model is None:
        enter_project()
    export_model(model, form, output, env=env)


@app.command(epilog="Examples: [bold]dinomill weights[/]   [bold]dinomill weights dinov3_vits16_pretrain.pth[/]")
def weights(
    address: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A file, a folder, or models:/name@alias to look at.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help=_SIZE, min=1)] = None,
) -> None:
    """List the released weights that can be loaded, or say what a file holds: family, shape, licence, hash."""
    from dinomill.commands.weights import check, list_known

    if address is None:
        list_known()
    else:
        check(address, image_size)


@app.command(epilog="Example: [bold]dinomill search query.jpg photos.parquet --count 5[/]")
def search(
    query: Annotated[Path, typer.Argument(help="An image.")],
    index: Annotated[Path, typer.Argument(help="A file that `dinomill embed` wrote.")],
    count: Annotated[int, typer.Option("--count", "-k", help="How many to show.", min=1)] = 10,
    model: Annotated[str | None, typer.Option("--model", "-m", help="By default the model that made the file.")] = None,
    env: Env = None,
) -> None:
    """Show the images nearest to a query: cosine and path, a line each."""
    from dinomill.commands.search import search as find
    from dinomill.commands.search import show

    show(find(query, index, count=count, model=model, env=env))


@app.command(
    epilog="Examples: [bold]dinomill bootstrap[/]   "
    "[bold]dinomill bootstrap --model models:/dinomill-backbone@champion[/]"
)
def bootstrap(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="models:/name@alias or models:/name/version; by default what is stale is run up to the registration "
            "stage, and the version that it registered is taken.",
        ),
    ] = None,
    env: Env = None,
) -> None:
    """Curate, pretrain and register, then curate again with the features of the registered model."""
    from dinomill.commands.bootstrap import bootstrap as curate_again
    from dinomill.commands.project import enter_project

    curate_again(enter_project(), model=model, env=env)


@dvc_app.command("sync", epilog="Examples: [bold]dinomill dvc sync[/]   [bold]dinomill dvc sync --check[/]")
def dvc_sync(
    check: Annotated[
        bool, typer.Option("--check", help="Only compare; exit code 1 when dvc.yaml is out of date.")
    ] = False,
    env: Env = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing when nothing changes.")] = False,
) -> None:
    """Write dvc.yaml, or conf/NAME/dvc.yaml, from the stages, the catalog and the parameter files."""
    from dinomill.commands.ahead import require_fit_for_dvc
    from dinomill.commands.dvc_sync import synchronise
    from dinomill.commands.project import enter_project

    root = enter_project()
    if not check:
        require_fit_for_dvc(env)
    raise typer.Exit(synchronise(root, env=env, check=check, quiet=quiet))


@dvc_app.command("check", epilog="Example: [bold]dinomill dvc check[/]")
def dvc_check(env: Env = None) -> None:
    """The first stage of dvc.yaml: fail unless DVC watches what the configuration says, and can."""
    from dinomill.commands.ahead import require_fit_for_dvc
    from dinomill.commands.dvc_sync import confirm
    from dinomill.commands.project import enter_project

    root = enter_project()
    require_fit_for_dvc(env)
    confirm(root, env)
