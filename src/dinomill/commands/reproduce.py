"""`dinomill reproduce`: make a registered version again, and say how near the result comes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dinomill import tracking
from dinomill.commands.project import folder as folder_of
from dinomill.errors import ConfigError, InputError, MachineError
from dinomill.handles import DatasetHandle, ModelHandle, StudentsHandle
from dinomill.layers import Layers
from dinomill.reproduction.checkout import (
    RECORDED,
    bring_environment,
    changed_code,
    check_folder,
    check_out,
    lay_settings,
    stay_inside,
)
from dinomill.reproduction.data import bring_dataset, link_sources, settle
from dinomill.reproduction.nearness import Nearness, nearness
from dinomill.reproduction.recorded import Recorded, recorded
from dinomill.reproduction.weights import bring_weights, given_weights
from dinomill.tracking.connection import make_ready

_IMAGES = 64
_TRAINED_WITH = "trained_with."
_DETERMINISTIC = "sums of the same numbers in another order, which this machine need not repeat"


def reproduce(root: Path, named: str, into: Path | None = None, env: str | None = None) -> int:
    """Bring code, data and settings of a version into a new folder, run its stages there, and compare.

    Args:
        root: The project, which is the working directory.
        named: ``models:/name/version``, ``models:/name@alias``, or the number or alias alone.
        into: The folder; by default beside the project.
        env: The environment that the version was trained in, where its run does not say it.

    Returns:
        The exit code: 0 when the weights are the same, 1 when they are not.

    Raises:
        DinomillError: When something is missing that it takes.
    """
    address, store = _address(named, env), tracking.current_store()
    found = recorded(address, store, root)
    into = (into or root.parent / f"{root.name}-{found.version.name}-{found.version.version}").absolute()
    check_folder(into)
    _say(found.version.uri, f"{found.tags.get('model', '')}, {found.tags.get('network', 'student')}")
    _say("known by", _known_by(found, store))
    project = check_out(root, found.commit, into)
    _say("code", f"{found.commit[:12]}, in {into}" + (" (its tree had changes that are lost)" if found.dirty else ""))
    env = _environment(found, env)
    if bring_environment(root, project, env):
        _say("environment", f"conf/{env} was not committed: as it is here now, with the run's settings over it")
    settings = lay_settings(project, env, found)
    _say("settings", f"{len(settings)} that the commit does not have, in {RECORDED}" if settings else "the commit's")
    for name, (before, value) in settings.items():
        _say("", f"{name}: {value} (the commit: {before})")
    for name in stay_inside(project, env):
        _say("", f"{name}: below the new folder (the commit: elsewhere)")
    layers = Layers(env, conf=project / "conf")
    for given in given_weights(root, layers, found):
        _say("weights", f"{given.key}: {bring_weights(root, project, given, found, store)}")
    place = Path(layers.globals["folders"]["curated"])
    brought = bring_dataset(root, found.tags_with(place), project / place, _present_dataset(env))
    dataset = settle(brought, project, place)
    _say("dataset", f"{dataset.images:,} images, manifest {dataset.manifest_sha256[:12]}…")
    _sources(root, project, layers)
    uses_registry = "models:/" in str([layers.parameters.get(stage) for stage in found.stages])
    registry = tracking.registry_of(store) if uses_registry else None
    for stage in found.stages:
        _run(project, stage, env, registry)
    results = list(_compared(root, found, project, layers, dataset, store))
    print()
    for what, near in results:
        _say(what, str(near))
    same = all(near.same for _, near in results)
    if not same:
        for reason in _reasons(found, project, layers, settings, env):
            _say("why, perhaps", reason)
    return 0 if same else 1


def _address(named: str, env: str | None) -> str:
    """The address of a version that may be named by its number or alias alone."""
    if named.startswith("models:/"):
        return named
    model = Layers(env).globals["model"]
    if re.fullmatch(r"\d+", named):
        return f"models:/{model}/{named}"
    return f"models:/{named}" if "/" in named or "@" in named else f"models:/{model}@{named}"


def _present_dataset(env: str | None) -> Path | None:
    """Where the project at work keeps its dataset; None where the environment is in the version's commit alone."""
    try:
        return folder_of("curated", env)
    except ConfigError:
        return None


def _known_by(found: Recorded, store: str) -> str:
    """Which way its training was found."""
    if found.run is not None:
        return f"the run {found.run.run_id[:8]} of {tracking.redact(store)}"
    assert found.lock is not None, "one of the two is known"
    return (
        f"{found.lock.lock} of commit {found.lock.commit[:12]}, which has its weights; the store does not know the run"
    )


def _environment(found: Recorded, env: str | None) -> str | None:
    said = found.environment
    if env is not None or said in (None, "base"):
        return env
    return said


def _sources(root: Path, project: Path, layers: Layers) -> None:
    """Let the labelled images be found, which a training looks at now and then.

    Raises:
        InputError: When they are not there.
    """
    labelled = layers.globals.get("labelled")
    if not isinstance(labelled, str) or "://" in labelled:
        return
    if link_sources(root, project, [Path(labelled)]):
        raise InputError(
            f"The labelled images {labelled} are not there.",
            expected=f"{labelled} in {root}, from which they are taken",
            action="bring them back where they were; those of the demo: `dvc pull sample`, or `dinomill sample`",
        )


def _own_store(project: Path) -> str:
    """The new folder's: what is only tried does not stand among the team's runs."""
    return f"sqlite:///{project / 'data' / 'mlflow' / 'mlflow.db'}"


def _run(project: Path, stage: str, env: str | None, registry: str | None) -> None:
    """Run a stage with the code of the folder.

    Args:
        project: The folder.
        stage: Which.
        env: Its environment.
        registry: Where its settings name registered models; None: they name none.

    Raises:
        MachineError: When it fails; what it said was shown.
    """
    option = ["--env", env] if env else []
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "MLFLOW_TRACKING_URI": _own_store(project)}
    if registry is not None:
        make_ready(_own_store(project))  # the checks before a run ask the registry, and make no database for it
        environment["MLFLOW_REGISTRY_URI"] = registry
    command = [sys.executable, "-m", "kedro", "run", *option, "--pipelines", stage]
    print(f"\n$ kedro run {' '.join([*option, '--pipelines', stage])}    (in {project})", flush=True)
    if (code := subprocess.run(command, cwd=project, env=environment, check=False).returncode) != 0:
        raise MachineError(
            f"The stage {stage} failed with the code of that time.",
            found=f"exit code {code}; what it said stands above",
            action=f"put right what it names, then, in {project}: `PYTHONPATH=src kedro run {' '.join(option)}"
            f"{' ' if option else ''}--pipelines {stage}`",
        )


def _compared(
    root: Path, found: Recorded, project: Path, layers: Layers, dataset: DatasetHandle, store: str
) -> Iterator[tuple[str, Nearness]]:
    """Every network that was made again, beside the one of that time, where that is known."""
    from dinomill.images.sampled import sample_images

    images = sample_images(dataset.below(project), _IMAGES)
    folders = layers.globals["folders"]
    registered = tracking.download(found.version.uri, store)
    if found.tags.get("network") == "teacher":
        made = project / folders["teacher"]
    else:
        made = project / folders["students"] / found.tags["model"]
        if "pretraining" in found.stages:
            teacher = ModelHandle.load(project / folders["teacher"])
            wanted = found.tags.get("teacher_sha256")
            if teacher.weights_sha256 == wanted:
                yield f"{teacher.name} (its teacher)", Nearness(same=True)
            elif _hash_of(root / folders["teacher"]) == wanted:
                yield f"{teacher.name} (its teacher)", nearness(root / folders["teacher"], teacher.folder, images)
    yield found.tags["model"], nearness(registered, made, images)


def _hash_of(folder: Path) -> str | None:
    return ModelHandle.load(folder).weights_sha256 if (folder / "handle.json").is_file() else None


def _reasons(
    found: Recorded, project: Path, layers: Layers, settings: Mapping[str, tuple[Any, Any]], env: str | None
) -> Iterator[str]:
    """What differed between then and now."""
    if found.dirty:
        yield f"the code had changes that were not committed (git_commit {found.commit[:12]}+)"
    own = _own_store(project)
    made = tracking.run_of_weights(own, _made_now(project, found, layers))
    now = None if made is None else tracking.run_facts(own, made)
    then = {} if found.run is None else found.run.tags
    before = {key: value for key, value in then.items() if key.startswith(_TRAINED_WITH)}
    after = {} if now is None else now.tags
    for key, value in before.items():
        if key in after and after[key] != value:
            yield f"{key.removeprefix(_TRAINED_WITH)}: {value} then, {after[key]} now"
    if not before:
        yield "another machine or library: " + (
            "dvc.lock does not say what it was trained with"
            if found.run is None
            else "the run of that time did not write down what it was trained with"
        )
    if found.run is None and (changed := changed_code(project, found.stages, env)):
        yield f"the commit's code is not the one that dvc.lock names: {', '.join(changed)}"
    missing = [stage for stage in found.stages if found.run_of(stage) is None and not found.locked(stage)]
    if missing:
        yield f"the store does not know the run of {', '.join(missing)}: its settings are the commit's"
    if settings:
        yield f"{len(settings)} settings were taken from what was recorded: see {RECORDED}"
    if before and all(after.get(key) == value for key, value in before.items()) and not found.dirty:
        yield _DETERMINISTIC


def _made_now(project: Path, found: Recorded, layers: Layers) -> str:
    """The hash of the weights that were made again."""
    folders = layers.globals["folders"]
    if found.tags.get("network") == "teacher":
        return ModelHandle.load(project / folders["teacher"]).weights_sha256
    return StudentsHandle.load(project / folders["students"]).students[found.tags["model"]].weights_sha256


def _say(what: str, told: str) -> None:
    print(f"  {what:22} {told}", flush=True)
