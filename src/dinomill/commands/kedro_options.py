"""The options of `kedro run` that choose among nodes, checked before anything starts; Kedro raises from its depths."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from dinomill.errors import InputError

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

# Kedro's name of each option's value, and the argument of `Pipeline.filter` that it becomes.
_FILTERS = {
    "tags": "tags",
    "node_names": "node_names",
    "from_nodes": "from_nodes",
    "to_nodes": "to_nodes",
    "from_inputs": "from_inputs",
    "to_outputs": "to_outputs",
    "namespaces": "node_namespaces",
}
_OPTIONS = {"node_names": "--nodes"}
_OF_NODES = ("node_names", "from_nodes", "to_nodes")


def run_parameters(kedros: Iterable[click.Parameter]) -> list[click.Parameter]:
    """The parameters of our `kedro run`: Kedro's, and what has no meaning here says so."""
    own = {"load_versions": _load_versions, "params": _params}
    return [own[one.name]() if one.name in own else one for one in kedros]


def _params() -> click.Option:
    def read(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
        return value if isinstance(value, dict) else read_params(value)

    return click.Option(
        ["--params"],
        type=click.UNPROCESSED,
        default="",
        callback=read,
        help="Settings laid over the files': key=value, separated by commas; a value as in YAML, also a list or a "
        "mapping: evaluation.measured=[knn,linear].",
    )


def read_params(text: str) -> dict[str, Any]:
    """``key=value,key=value`` as nested settings; commas within brackets, braces and quotes belong to a value.

    Raises:
        BadParameter: When an item is not of that form, or a value is not YAML.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    items = [item for item in _split(text) if item.strip()]
    for item in items:
        key, equals, _ = item.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(
                f"{item.strip()!r} is no setting. Expected: key=value, several separated by commas; a list in "
                "brackets: evaluation.measured=[knn,linear]."
            )
    try:
        settings = OmegaConf.from_dotlist([item.strip() for item in items])
        found = OmegaConf.to_container(settings)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise click.BadParameter(f"{text!r} cannot be read as settings: {str(error).splitlines()[0]}.") from None
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no bracket and in no quotes."""
    parts, start, depth, quote = [], 0, 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append(text[start:place])
            start = place + 1
    if quote or depth:  # one bracket of them is a letter: nothing is kept together, and what is wrong is said
        return text.split(",")
    return [*parts, text[start:]]


def _load_versions() -> click.Option:
    def refuse(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> None:
        if value:
            raise click.BadParameter(
                "no dataset of this project is versioned by Kedro: its results are DVC's. For those of an earlier "
                "commit: `git checkout COMMIT`, then `dvc checkout` (or `dvc pull`)."
            )

    return click.Option(
        ["--load-versions", "-lv"],
        multiple=True,
        callback=refuse,
        help="Refused: versions are DVC's, by git's commits.",
    )


def with_namespaces(options: Mapping[str, Any]) -> dict[str, Any]:
    """Nodes by their whole names: `scan_files` is ``curation.scan_files``, while no other stage has one of that name.

    Args:
        options: Of the command, by Kedro's names.
    """
    if not any(options.get(option) for option in _OF_NODES):
        return dict(options)
    from kedro.framework.project import pipelines

    names = {node.name for one in pipelines.values() for node in one.nodes}
    whole = {_short(name): name for name in sorted(names)}
    return {
        option: [whole.get(name, name) for name in value] if option in _OF_NODES and value else value
        for option, value in options.items()
    }


def _short(name: str) -> str:
    """A node's name without its stage's."""
    return name.rpartition(".")[2]


def check_filters(stages: list[str], options: Mapping[str, Any]) -> None:
    """Refuse filters that name what there is not, or that leave nothing to run.

    Args:
        stages: Those that were asked for; none: the default ones.
        options: Of the command, by Kedro's names.

    Raises:
        InputError: Naming the option, what was found, and what there is.
    """
    given = {option: list(value) for option in _FILTERS if (value := options.get(option))}
    if not given:
        return
    from kedro.framework.project import pipelines
    from kedro.pipeline import Pipeline

    pipelines.set_requested(stages or None)  # else all stages are imported, whichever are asked for
    names = stages or ["__default__"]
    asked = sum((pipelines[name] for name in names), start=Pipeline([]))
    for option, wanted in given.items():
        known = _known(asked, option)
        for name in wanted:
            if name not in known:
                shown = set(map(_short, known)) if option in _OF_NODES else known
                _refuse(option, _short(name) if option in _OF_NODES else name, shown, stages)
    try:
        asked.filter(**{_FILTERS[option]: wanted for option, wanted in given.items()})
    except ValueError:
        said = ", ".join(f"{_option(option)} {','.join(wanted)}" for option, wanted in given.items())
        raise InputError(
            "These options leave no node to run.",
            found=said,
            expected="nodes that meet all of them",
            action="leave one out",
        ) from None


def _known(pipeline: Pipeline, option: str) -> set[str]:
    """What an option may name."""
    if option == "tags":
        return {tag for node in pipeline.nodes for tag in node.tags}
    if option == "namespaces":
        return {prefix for node in pipeline.nodes for prefix in node.namespace_prefixes if prefix}
    if option == "from_inputs":
        return set(pipeline.datasets())
    if option == "to_outputs":
        return set(pipeline.all_outputs())
    return {node.name for node in pipeline.nodes}


def _refuse(option: str, name: str, known: set[str], stages: list[str]) -> None:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    where = f"of {', '.join(stages)}" if stages else "of the stages that run by default"
    kind = {"tags": "tag", "namespaces": "namespace", "from_inputs": "input", "to_outputs": "output"}.get(
        option, "node"
    )
    raise InputError(
        f"There is no {kind} {name!r}" + (f"; did you mean {close[0]!r}?" if close else "."),
        found=f"{_option(option)} {name}",
        expected=f"one {where}: {', '.join(sorted(known))}" if known else f"no {kind} at all: leave the option out",
        action="correct the name, or name the stage that has it with --pipelines",
    )


def _option(name: str) -> str:
    return _OPTIONS.get(name, f"--{name.replace('_', '-')}")
