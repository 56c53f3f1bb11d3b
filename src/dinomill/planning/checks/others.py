"""Other environments: none may have its results where this one will write.

An environment may leave stages to the base, and then shares their folders with it: `dataset: data` does so. What is the
same there is the same for both; an environment that changes such a stage would write over the base's results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dinomill.errors import ConfigError
from dinomill.layers import Layers, environments
from dinomill.planning.checks.problems import Problem, some
from dinomill.planning.checks.request import Request

# The folders that a stage writes, its handle's first, and what decides of its results besides its own parameters, as
# globals.yml calls them.
WRITES = {
    "sample": ("sample",),
    "curation": ("curated", "scan", "duplicates", "embeddings", "selection"),
    "pretraining": ("teacher",),
    "distillation": ("students",),
    "evaluation": ("evaluation",),
    "registration": ("registration",),
    "packaging": ("package",),
    "reporting": ("report",),
}
_DEPENDS = {
    "curation": ("pool", "seeds"),
    "pretraining": ("folders.curated",),
    "distillation": ("folders.curated", "folders.teacher"),
    "evaluation": ("folders.teacher", "folders.students", "labelled"),
    "registration": ("folders.evaluation", "model"),
    "packaging": ("folders.registration", "folders.evaluation"),
    "reporting": ("folders.package", "folders.curated"),
}


def check_others(request: Request) -> Iterator[Problem]:
    """Results of one environment below those of another, one problem for each of the others."""
    layers = request.layers
    if layers is None:
        return
    yield from results_in_sources(request)
    base = _globals(Layers(conf=layers.conf))
    for name in (None, *environments(layers.conf)):
        if name == layers.env:
            continue
        other = Layers(name, conf=layers.conf)
        theirs = _globals(other)
        for stage, folder in _written(request):
            place = _find(theirs, f"folders.{folder}")
            if not isinstance(place, str) or not _overlap(request.folders[folder], Path(place)):
                continue
            of_base = Path(str(_find(base, f"folders.{folder}"))) == request.folders[folder]
            # Whom it belongs to is the base: what another changes of it is said when that other runs.
            if of_base and (layers.env is None or name is not None or not _changes(layers, stage, base)):
                continue
            yield _shared(request, folder, other, place)
            break


def results_in_sources(request: Request) -> Iterator[Problem]:
    """Images that are looked for where another environment has its results."""
    layers = request.layers
    others = [] if layers is None else [None, *environments(layers.conf)]
    for name in others:
        assert layers is not None
        if name == layers.env:
            continue
        other = Layers(name, conf=layers.conf)
        folders = _find(_globals(other), "folders") or {}
        theirs = {folder: str(place) for folder, place in folders.items() if folder not in ("sample", "work")}
        mine = {Path(folder).resolve() for folder in request.folders.values()}
        for key, place in request.named:
            path = Path(place).resolve()
            inside = [one for one in theirs.values() if Path(one).resolve().is_relative_to(path)]
            inside = [one for one in inside if Path(one).resolve() not in mine | {path}]
            if inside and "://" not in place:
                yield Problem(
                    key,
                    f"{place} holds results of {_whose(other)}: they would be taken for images.",
                    found=some(inside, 2),
                    action="name the folder that holds the images alone",
                )
                return


def _whose(layers: Layers) -> str:
    return f"the environment {layers.env}" if layers.env else "the base"


def _written(request: Request) -> Iterator[tuple[str, str]]:
    for stage in request.stages:
        yield from ((stage, folder) for folder in WRITES.get(stage, ()) if folder in request.folders)


def _globals(layers: Layers) -> Mapping[str, Any]:
    """Another environment's globals; nothing where they cannot be read, which stops only who runs in it."""
    try:
        return layers.globals
    except ConfigError:
        return {}


def _changes(layers: Layers, stage: str, base: Mapping[str, Any]) -> bool:
    """Whether an environment makes something else of a stage than the base does."""
    own = f"{layers.conf.as_posix()}/{layers.env}/"
    if any(stage in file.values for file in layers.read("parameters") if file.name.startswith(own)):
        return True
    return any(_find(layers.globals, key) != _find(base, key) for key in _DEPENDS.get(stage, ()))


def _shared(request: Request, folder: str, other: Layers, place: str) -> Problem:
    assert request.layers is not None
    env = request.layers.env
    mine, theirs = request.origin(f"folders.{folder}"), other.origin(f"folders.{folder}")
    return Problem(
        f"folders.{folder}",
        f"This run would write over results of {_whose(other)}: they lie in the same folder.",
        found=f"{request.folders[folder]} by {mine}, {place} by {theirs}",
        expected="folders of its own for each environment's results",
        action=own_results(request.layers) if env else f"set `data` and `work` in {theirs} to folders of its own",
    )


def own_results(layers: Layers) -> str:
    """What to do so that an environment's results lie apart from all others."""
    local, said = f"{layers.conf.as_posix()}/local/", layers.origin("data")
    if said.startswith(local):
        return f"take `data` out of {said}: it counts for every environment"
    name = layers.env or "NAME"
    return f"set `data: data/{name}` and `work: data/work/{name}` in {layers.conf.as_posix()}/{name}/globals.yml"


def _overlap(one: Path, other: Path) -> bool:
    one, other = one.absolute(), other.absolute()
    return one.is_relative_to(other) or other.is_relative_to(one)


def _find(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
