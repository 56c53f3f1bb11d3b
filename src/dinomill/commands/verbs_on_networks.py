"""The verbs that use a network: `dinomill embed`, `search`, `export` …; each imports what it needs when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dinomill.commands.typed import BACKEND, EVALUATED, MODEL, PATCHES, SIZE, Env, app, examples


@app.command(
    epilog=examples(
        "dinomill serve",
        "dinomill serve --port 9000 --browser",
        "dinomill serve models:/dinomill-backbone@champion --follow 60",
        "dinomill serve s3://team/models/dinomill-backbone/3",
    )
)
def serve(
    address: Annotated[
        str | None,
        typer.Argument(
            help="models:/name@alias, s3://…/name/version or a package's folder; by default the environment's package."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 8080,
    follow: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Look so often whether another package is meant by now; it takes over without a failed request. "
            "SIGHUP looks once.",
            min=1,
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page where images can be tried.")] = False,
    env: Env = None,
) -> None:
    """Serve a packaged model on 127.0.0.1, with a page to try it. Ctrl-C ends it.

    A published package (`dinomill publish`) is fetched once, verified, and served on any machine, in a project or not.
    """
    from dinomill.commands.publish import serve_address

    serve_address(address, port, env, follow=follow, browser=browser)


@app.command(epilog=examples("dinomill publish --store s3://team/models", "dinomill publish"))
def publish(
    store: Annotated[
        str | None, typer.Option(help="s3://bucket/prefix; by default packaging.store. AWS_ENDPOINT_URL as usual.")
    ] = None,
    env: Env = None,
) -> None:
    """Put the package into a model store in S3, where a version never changes, and its place into the registry."""
    from dinomill.commands.project import enter_project
    from dinomill.commands.publish import publish_package

    enter_project()
    publish_package(store, env)


@app.command(
    epilog=examples(
        "dinomill embed photos/ --output photos.parquet",
        "dinomill embed a.jpg b.png -o two.npy --model dinov2_vits14_pretrain.pth",
        "dinomill embed photos/ -o photos.parquet --patches patches.npy --backend openvino-bfloat16",
        "dinomill embed photos/ -o photos.parquet --backend openvino-int8 --calibration photos/",
    )
)
def embed(
    sources: Annotated[list[Path], typer.Argument(help="Images, or folders that are searched recursively.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .parquet or .npy file.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL)] = None,
    batch_size: Annotated[int, typer.Option(help="Images computed at once.", min=1)] = 64,
    image_size: Annotated[int | None, typer.Option(help=SIZE, min=1)] = None,
    patches: Annotated[Path | None, typer.Option(help=PATCHES)] = None,
    backend: Annotated[str | None, typer.Option(help=BACKEND)] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="For a backend in 8 bits: a folder of images of the kind that is embedded, or a curated dataset's; by "
            "default the project's curated images."
        ),
    ] = None,
    env: Env = None,
) -> None:
    """Compute one embedding an image. A run that was stopped continues when the same command is given again.

    Files that cannot be used are left out, counted, and listed in OUTPUT.left_out.csv. The exit code is 0 when the
    file is written, whatever was left out, 1 when nothing is, and 130 after Ctrl-C.
    """
    from dinomill.commands.embed import embed_files
    from dinomill.commands.project import enter_project

    # A project may lie in another folder, and becomes the one at work.
    sources, output = [path.absolute() for path in sources], output.absolute()
    patches = None if patches is None else patches.absolute()
    calibration = None if calibration is None else calibration.absolute()
    if model is None:
        enter_project()
    embed_files(
        sources,
        output,
        model=model,
        batch_size=batch_size,
        image_size=image_size,
        env=env,
        backend=backend,
        calibration=calibration,
        patches=patches,
    )


@app.command(
    epilog=examples(
        "dinomill export onnx backbone.onnx",
        "dinomill export pth vits14.pth --model models:/dinomill-backbone@champion",
        "dinomill export onnx-int8 backbone.int8.onnx --calibration photos/",
    )
)
def export(
    form: Annotated[
        str,
        typer.Argument(metavar="FORMAT", help="pth, safetensors, pt2, onnx, onnx-int8, openvino, huggingface or timm."),
    ],
    output: Annotated[Path, typer.Argument(help="The file to write; its suffix becomes the format's.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL)] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of the weights, where nothing says it; it goes into the file.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="For onnx-int8: a folder of images of the kind that will be seen, or a curated dataset's; by default "
            "the project's curated images."
        ),
    ] = None,
    env: Env = None,
) -> None:
    """Write the model in a form that other runtimes read, after comparing it with the model itself."""
    from dinomill.commands.export import export_model
    from dinomill.commands.project import enter_project

    output = output.absolute()
    calibration = None if calibration is None else calibration.absolute()
    if model is None:
        enter_project()
    export_model(model, form, output, licence=licence, calibration=calibration, env=env)


@app.command(epilog=examples("dinomill weights", "dinomill weights dinov3_vits16_pretrain.pth"))
def weights(
    address: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A file, a folder, or models:/name@alias to look at.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help=SIZE, min=1)] = None,
    env: Env = None,
) -> None:
    """List the released weights that can be loaded, or say what a file holds: family, shape, licence, hash."""
    from dinomill.commands.weights import check, list_known

    if address is None:
        list_known()
    else:
        check(address, image_size, env=env)


@app.command(
    epilog=examples(
        "dinomill evaluate --model dinov2_vits14_pretrain.pth --on photos/labelled",
        "dinomill evaluate -m models:/mill@champion -m vits14.pth --on labels.csv -p knn -p few_shot",
        "dinomill evaluate -m data/06_models/teacher --on data/01_raw/sample/labelled --json scores.json",
    )
)
def evaluate(
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", help=EVALUATED),
    ],
    on: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="PATH",
            help="The labelled images: a folder SPLIT/CLASS/IMAGE, or a .parquet or .csv with path, label, split; "
            "other tasks: images and masks or depth/, or a list of instances (docs/evaluation-dense.md).",
        ),
    ],
    task: Annotated[
        str, typer.Option("--task", help="classification, segmentation, depth or retrieval: what the labels are.")
    ] = "classification",
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            "-p",
            help="What is measured: knn, linear, linear_grid, few_shot, cost, retrieval, copies, robustness, "
            "segmentation, depth. May be repeated.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything there; - prints it, and no table.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help=SIZE, min=1)] = None,
    baselines: Annotated[bool, typer.Option(help="Raw pixels and random weights as rows to compare with.")] = True,
    bank_split: Annotated[str, typer.Option(help="The split that probes learn from.")] = "train",
    query_split: Annotated[str, typer.Option(help="The split that is scored.")] = "test",
    max_bank: Annotated[int | None, typer.Option(help="Images to learn from at most, evenly.", min=10)] = None,
    max_queries: Annotated[int | None, typer.Option(help="Images to score at most, evenly.", min=10)] = None,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto: of the networks' products.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Images computed at once.", min=1)] = 64,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the labelled set: scale=0.001, ignored=[0, 255], …"),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where features are kept; by default ~/.cache/dinomill/evaluation.")
    ] = None,
    env: Env = None,
) -> None:
    """Measure what networks' features are worth on labelled images, without training the networks.

    The first model is what the others are held against. Features are computed once and kept by content of the images
    and weights: another protocol, or another model beside it, costs no second pass.
    """
    from dinomill.commands.evaluate import Wish, evaluate_models

    if precision not in ("float32", "bfloat16", "auto"):
        raise typer.BadParameter("it is float32, bfloat16 or auto", param_hint="--precision")
    wish = Wish(
        model,
        on,
        task,
        protocol or (),
        bank_split,
        query_split,
        max_bank,
        max_queries,
        image_size,
        baselines,
        precision,  # type: ignore[arg-type]
        batch_size,
        env,
        settings or (),
    )
    evaluate_models(wish, cache=cache, output=json_file)


@app.command(epilog=examples("dinomill search query.jpg photos.parquet --count 5"))
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
