"""Verbs that are a stage or speak of what the stages left: `dinomill sample`, `dinomill summary`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dinomill.commands.project import folder, result
from dinomill.errors import ConfigError
from dinomill.handles import ReportHandle
from dinomill.layers import Layers

if TYPE_CHECKING:
    from dinomill.sample import SampleConfig

PARAMETERS = "conf/base/sample/parameters.yml"


def lay_out_sample(*, full: bool) -> None:
    """Write the sample's folder, or with ``full`` the one of all 70,000 images beside it, and say what is there.

    Raises:
        ConfigError: When the sample's parameters are not valid.
        InputError: When the shipped images are missing, or the folder holds something else.
        MachineError: When the full set cannot be fetched.
    """
    from dinomill.sample import fetch_full, full_config, lay_out

    config = sample_config()
    if full:
        output = config.output.with_name(f"{config.output.name}_full")
        source = fetch_full(folder("work") / "fashion_mnist")
        config = full_config(config.model_copy(update={"output": output}), source)
    handle = lay_out(config)
    width = max(map(len, handle.counts))
    for kind, count in handle.counts.items():
        print(f"{kind:{width}}  {count:7,}")
    place = handle.folder.as_posix()
    print(f"\nLaid out in {place}.")
    if full:
        print("The environment `fashion` works with it: kedro run --env fashion, or `make fashion`.")


def sample_config() -> SampleConfig:
    """The sample's parameters, without starting a Kedro session.

    Raises:
        ConfigError: When they are missing or not valid.
    """
    from dinomill.sample import SampleConfig

    layers = Layers()
    if "sample" not in layers.parameters:
        raise ConfigError("There are no parameters 'sample'.", action=f"restore {PARAMETERS}")
    return SampleConfig.parse(layers.parameters["sample"], where=layers.origin, prefix="sample")


def show_summary(env: str | None) -> None:
    """Print what the last run in an environment left, from the handles on disk."""
    from dinomill.reporting.summary import render

    layers = Layers(env)
    render({name: Path(place) for name, place in layers.globals["folders"].items()}, env=layers.env)


def open_report(env: str | None) -> None:
    """Open the page that the reporting stage drew.

    Raises:
        InputError: When there is none yet.
    """
    import webbrowser

    page = ReportHandle.load(result("report", env)).page
    print(page)
    webbrowser.open(page.absolute().as_uri())
