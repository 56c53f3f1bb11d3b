"""Verbs that are a stage or speak of what the stages left: `dinomill sample`, `dinomill summary`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dinomill.commands.project import result
from dinomill.errors import ConfigError
from dinomill.handles import ReportHandle
from dinomill.layers import Layers

if TYPE_CHECKING:
    from dinomill.sample import SampleConfig

PARAMETERS = "conf/base/sample/parameters.yml"


def lay_out_sample(env: str | None) -> None:
    """Write the folder of an environment's sample, and say what is there.

    Raises:
        ConfigError: When the sample's parameters are not valid.
        InputError: When the shipped images are missing, or the folder holds something else.
        MachineError: When pictures are not there and cannot be fetched.
    """
    from dinomill.sample import lay_out

    handle = lay_out(sample_config(env))
    width = max(map(len, handle.counts))
    for kind, count in handle.counts.items():
        print(f"{kind:{width}}  {count:7,}")
    print(f"\nLaid out in {handle.folder.as_posix()}.")


def sample_config(env: str | None = None) -> SampleConfig:
    """The parameters of an environment's sample, without starting a Kedro session.

    Raises:
        ConfigError: When they are missing or not valid.
    """
    from dinomill.sample import SampleConfig

    layers = Layers(env)
    if "sample" not in layers.parameters:
        raise ConfigError("There are no parameters 'sample'.", action=f"restore {PARAMETERS}")
    return SampleConfig.parse(layers.parameters["sample"], where=layers.origin, prefix="sample")


def show_summary(env: str | None) -> None:
    """Print what the last run in an environment left, from the handles on disk."""
    from dinomill.reporting.summary import render

    layers = Layers(env)
    folders = {name: Path(place) for name, place in layers.globals["folders"].items()}
    store = os.environ.get("MLFLOW_TRACKING_URI") or layers.globals.get("tracking_uri")
    render(folders, env=layers.env, store=store, remote=has_remote())


def has_remote() -> bool:
    """Whether DVC has a place to push to; its own reading of the file takes most of a second."""
    files = (Path(".dvc", name) for name in ("config", "config.local"))
    return any(re.search(r"^\s*remote\s*=", file.read_text(encoding="utf-8"), re.M) for file in files if file.is_file())


def open_report(env: str | None) -> None:
    """Open the page that the reporting stage drew.

    Raises:
        InputError: When there is none yet.
    """
    import webbrowser

    page = ReportHandle.load(result("report", env)).page
    print(page)
    webbrowser.open(page.absolute().as_uri())
