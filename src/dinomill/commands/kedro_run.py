"""`kedro run`, with this project's manners: stages by name, one-screen errors, no warning for either spelling."""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from kedro.framework.cli.project import run as kedro_run

from dinomill.commands.failures import shown_to_the_user
from dinomill.commands.kedro_options import check_filters, run_parameters, with_namespaces
from dinomill.errors import InputError
from dinomill.hooks import check_runner
from dinomill.pipeline_registry import STAGES

_LOGGING = Path("conf/logging.yml")
_PROJECT = click.Option(
    ["--project"],
    metavar="FOLDER",
    help="The project to run in; by default the one around the working directory. Elsewhere Kedro knows no `run`: "
    "`python -m dinomill --project FOLDER` is the same.",
)


@click.group(name="dinomill")
def project_commands() -> None:
    """What this project adds to Kedro's commands."""


def _run(**options: Any) -> None:
    names = [options["pipeline"]] if options["pipeline"] else list(options["pipelines"])
    if options["pipeline"] and options["pipelines"]:
        raise click.UsageError("--pipeline and --pipelines are two spellings of one option: give one of them.")
    for name in names:
        _check_stage(name)
    # The order on the command line does not matter to Kedro; an empty list is the default pipeline.
    options |= {"pipeline": None, "pipelines": names, "load_versions": None}
    signal.signal(signal.SIGTERM, _stop)
    _quiet()
    with shown_to_the_user(" ".join(["kedro run", *names])):
        check_runner(options["runner"])
        _go_to_project(options.pop("project", None))
        options = with_namespaces(options)
        check_filters(names, options)
        try:
            assert kedro_run.callback is not None
            kedro_run.callback(**options)
        except (KeyboardInterrupt, SystemExit) as stop:
            _end_tracking(stop)
            raise


def _end_tracking(stop: BaseException) -> None:
    from kedro.framework.project import settings

    for hook in settings.HOOKS:
        hook.interrupted(stop)


def _check_stage(name: str) -> None:
    if name in (*STAGES, "__default__"):
        return
    close = difflib.get_close_matches(name, STAGES, n=1, cutoff=0.4)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise click.BadParameter(f"there is no stage {name!r}. {hint}The stages are: {', '.join(STAGES)}.")


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    # An ordinary exit, so that the MLflow run is closed and temporary files are removed.
    sys.exit(128 + number)


def _quiet() -> None:
    # Kedro reports a failing node three times; the user sees our message once.
    for name in ("kedro.pipeline.node", "kedro.runner", "kedro.runner.runner", "kedro.runner.sequential_runner"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def _go_to_project(named: str | None = None) -> None:
    """Make the project's root the working directory: every path of the configuration is relative to it.

    Raises:
        InputError: When ``named`` is in no project.
    """
    import yaml
    from kedro.framework.project import LOGGING
    from kedro.framework.startup import bootstrap_project
    from kedro.utils import find_kedro_project

    here = Path.cwd()
    root = find_kedro_project(Path(named).absolute() if named else here)
    if root is None:
        if named:
            raise InputError(f"{named} is in no Kedro project.", expected="the project's folder, or one in it")
        return  # the packaged project, with its configuration here or where --conf-source says
    if root == here:
        return
    os.chdir(root)
    bootstrap_project(root)
    # Kedro looked for it in the folder where it was started.
    if "KEDRO_LOGGING_CONFIG" not in os.environ and _LOGGING.is_file():
        LOGGING.configure(yaml.safe_load(_LOGGING.read_text(encoding="utf-8")))


project_commands.add_command(
    click.Command(
        name="run",
        params=[*run_parameters(kedro_run.params), _PROJECT],
        callback=_run,
        help="Run stages: all of them, or those given with --pipelines.",
    )
)
