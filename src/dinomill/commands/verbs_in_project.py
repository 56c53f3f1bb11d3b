"""The verbs that look after a project: `dinomill init`, `plan`, `summary` …; each imports what it needs when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dinomill.commands.typed import Env, app, dvc_app, examples


@app.command(epilog=examples("dinomill doctor"))
def doctor(env: Env = None) -> None:
    """Say what is there, what is missing and what to do. The exit code is 1 when something needed is missing."""
    from dinomill.commands.doctor import examine, show

    raise typer.Exit(show(examine(env)))


@app.command(
    epilog=examples(
        "dinomill init photos --pool /data/photos",
        "dinomill init photos --pool /data/a --pool s3://team/b --seeds cats=/data/cats "
        "--labelled /data/labelled --hours 8",
        "dinomill init photos --pool /data/photos --from vits14.pth --force",
        "dinomill init photos --pool /data/photos --teacher efficientnet-lite0",
    )
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
        str | None,
        typer.Option(
            "--labelled",
            help="<split>/<class>/<image>, splits train and test; or a .csv or .parquet: path, label, split.",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="WEIGHTS", help="Weights to start from: whatever `embed` takes.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="ADDRESS",
            help="Distil from this network as it is, and pretrain nothing: efficientnet-lite0, weights, models:/…, "
            "a .onnx or .pt2 file.",
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of those weights or that teacher, where nothing beside them says it.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", help="What the whole run may take.")] = 1.0,
    size: Annotated[
        str | None, typer.Option("--size", help="Of the model: tiny, S, B or L; by default as large as is sensible.")
    ] = None,
    tiles: Annotated[
        int | None,
        typer.Option(
            "--tiles", metavar="SIDE", help="Cut the pool's images (slides, scenes) into tiles of SIDE pixels."
        ),
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
            teacher=None if teacher is None else from_here(teacher, here),
            licence=licence,
            hours=hours,
            size=known_size(size),
            tiles=tiles,
            force=force,
            probe=probe,
        )
    )


@app.command(epilog=examples("dinomill plan", "dinomill plan --env fashion"))
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
    epilog=examples("dinomill sample", "dinomill sample --env fashion   (all 70,000 garments of Fashion-MNIST)")
)
def sample(env: Env = None) -> None:
    """Lay out the demo's images: a messy pool, a few good examples, a labelled split."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.stages import lay_out_sample

    enter_project()
    lay_out_sample(env)


@app.command(epilog=examples("dinomill summary", "dinomill summary --env fashion"))
def summary(env: Env = None) -> None:
    """Show what the last run left: kept and removed images, accuracy by model, version, served answer."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.stages import show_summary

    enter_project()
    show_summary(env)


@app.command(epilog=examples("dinomill report", "dinomill report --env fashion"))
def report(env: Env = None) -> None:
    """Open the page of the last run in the browser, and say where it lies."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.stages import open_report

    enter_project()
    open_report(env)


@app.command(epilog=examples("dinomill ui", "dinomill ui --port 5050"))
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
    env: Env = None,
) -> None:
    """Serve the MLflow page on 127.0.0.1: runs, curves and registered models. Ctrl-C ends it."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.ui import serve_ui

    enter_project()
    serve_ui(port, env)


@app.command(epilog=examples("dinomill bootstrap", "dinomill bootstrap --model models:/dinomill-backbone@champion"))
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


@app.command(
    epilog=examples(
        "dinomill orchestrate airflow --env photos -o dags/dinomill_photos.py",
        "dinomill orchestrate argo --image registry.example.org/dinomill:1 --claim mill -o workflow.yaml",
        "dinomill orchestrate kubernetes --image registry.example.org/dinomill:1 --claim mill | kubectl create -f -",
    )
)
def orchestrate(
    kind: Annotated[Literal["airflow", "argo", "kubernetes"], typer.Argument(help="What will run the stages.")],
    env: Env = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; by default it is printed.")] = None,
    through: Annotated[
        Literal["dvc", "kedro"],
        typer.Option(help="dvc: what is stale, and dvc.lock says it; kedro: every stage, every time."),
    ] = "dvc",
    schedule: Annotated[
        str | None, typer.Option(help="When: a cron expression, or @daily for Airflow; by default on demand.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Of the pods.")] = None,
    claim: Annotated[str | None, typer.Option(help="The PersistentVolumeClaim that holds the project.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Where the pods live.")] = None,
) -> None:
    """Write the stages as a graph for Airflow, Argo Workflows, or a plain Kubernetes job: a task a stage.

    What else pods need (CPUs, GPUs, memory, secret, service account) is taken from pretraining.launcher.kubernetes.
    """
    from dinomill.commands.orchestrate import next_step
    from dinomill.commands.orchestrate import orchestrate as make
    from dinomill.commands.project import enter_project

    here = Path.cwd()
    root = enter_project()
    given = {"image": image, "claim": claim, "namespace": namespace}
    pods_as = {key: value for key, value in given.items() if value is not None}
    place = None if output is None else here / output
    text = make(kind, root, env=env, output=place, through=through, schedule=schedule, pods_as=pods_as)
    if output is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"Wrote {output}. {next_step(kind, output, env)}")


@dvc_app.command("sync", epilog=examples("dinomill dvc sync", "dinomill dvc sync --check"))
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


@dvc_app.command("check", epilog=examples("dinomill dvc check"))
def dvc_check(env: Env = None) -> None:
    """The first stage of dvc.yaml: fail unless DVC watches what the configuration says, and can."""
    from dinomill.commands.ahead import require_fit_for_dvc
    from dinomill.commands.dvc_sync import confirm
    from dinomill.commands.project import enter_project, read_globals
    from dinomill.planning.running import refuse_dvc

    root = enter_project()
    refuse_dvc({name: Path(place) for name, place in read_globals(env).get("folders", {}).items()})
    require_fit_for_dvc(env)
    confirm(root, env)
