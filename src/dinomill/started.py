"""What MLflow is told of a start of the pipeline: its parent run's name, and all that it takes to do the same again.

The parent run keeps

    tags                    git_commit, environment, hardware, python, torch; packages_, lock_ and dvc_lock_sha256
    configuration.yml       every parameter of every stage, as merged
    packages.txt            what is installed, with versions: what packages_sha256 is of
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill import tracking
from dinomill.stages import STAGES
from dinomill.storage.hashing import hash_bytes, hash_file

if TYPE_CHECKING:
    from dinomill.layers import Layers

_LOCK = Path("requirements/lock.txt")


@contextmanager
def started(
    stages: Iterable[str], run_params: Mapping[str, Any], layers: Layers | None, parameters: Mapping[str, Any]
) -> Iterator[None]:
    """Within the block, the runs of stages are children of this start's run.

    Args:
        stages: That this process will run.
        run_params: As Kedro has them.
        layers: The configuration's.
        parameters: As merged.
    """
    env = None if layers is None else layers.env
    key, command = tracking.started_by(_command(stages, run_params))
    commit = (tracking.git_commit() or "")[:8]
    name = " · ".join(part for part in (command, env or "", commit) if part)
    with tracking.invocation(tracking.Invocation(key, name, lambda: _described(env, parameters))):
        yield


def _command(stages: Iterable[str], run_params: Mapping[str, Any]) -> str:
    named = run_params.get("pipeline_names") or ([one] if (one := run_params.get("pipeline_name")) else [])
    named = [str(name) for name in named if name != "__default__"]
    if not named:
        ordered = [stage for stage in STAGES if stage in set(stages)]
        named = ordered if len(ordered) < 3 else [f"{ordered[0]} to {ordered[-1]}"]
    return " ".join(["kedro run", *named])


def _described(env: str | None, parameters: Mapping[str, Any]) -> tracking.Described:
    import yaml

    from dinomill.layers import CONF
    from dinomill.planning.machine import survey

    packages = "\n".join(_packages()) + "\n"
    tags = {
        "environment": env or "base",
        "hardware": survey().lasting,
        "python": platform.python_version(),
        "packages_sha256": hash_bytes(packages.encode()),
        "torch": next((line.partition("==")[2] for line in packages.splitlines() if line.startswith("torch==")), ""),
    }
    dvc_lock = (CONF / env if env else Path()) / "dvc.lock"
    tags |= {
        name: hash_file(path)
        for name, path in (("lock_sha256", _LOCK), ("dvc_lock_sha256", dvc_lock))
        if path.is_file()
    }
    told = yaml.safe_dump(tracking.without_secrets(parameters), sort_keys=False, allow_unicode=True)
    files = {"configuration.yml": told, "packages.txt": packages}
    return tracking.Described({name: value for name, value in tags.items() if value}, files)


def _packages() -> list[str]:
    found = {str(one.metadata["Name"] or "").lower().replace("_", "-"): one.version for one in distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if name)


def name_of_run(stage: str, parameters: Mapping[str, Any]) -> str:
    """The name of a stage's run: what it is, by the settings that people tell runs apart by.

    Args:
        stage: The stage.
        parameters: Its own, as merged.
    """
    detail = _DETAILS.get(stage, lambda _: "")(parameters)
    return f"{stage} · {detail}" if detail else stage


def _of_curation(parameters: Mapping[str, Any]) -> str:
    embedding = parameters.get("embedding")
    network = _shown(embedding.get("embedder") if isinstance(embedding, Mapping) else None, "network")
    return network if network.startswith("models:/") else Path(network).name


def _of_pretraining(parameters: Mapping[str, Any]) -> str:
    return ", ".join(part for part in (_network(parameters.get("model")), _steps(parameters)) if part)


def _of_distillation(parameters: Mapping[str, Any]) -> str:
    students = parameters.get("students")
    named = ", ".join(map(str, students)) if isinstance(students, Mapping) else ""
    return ", ".join(part for part in (named, _steps(parameters)) if part)


def _of_evaluation(parameters: Mapping[str, Any]) -> str:
    measured = parameters.get("measured")
    return ", ".join(map(str, measured)) if isinstance(measured, list | tuple) else ""


_DETAILS = {
    "curation": _of_curation,
    "pretraining": _of_pretraining,
    "distillation": _of_distillation,
    "evaluation": _of_evaluation,
}


def _network(model: Any) -> str:
    if not isinstance(model, Mapping):
        return ""
    width, depth, patch = (model.get(name) for name in ("embed_dim", "depth", "patch_size"))
    if all(isinstance(value, int) for value in (width, depth, patch)):
        return f"ViT {width}×{depth}/{patch}"
    return str(model.get("kind") or "")


def _steps(parameters: Mapping[str, Any]) -> str:
    steps, seed = parameters.get("steps"), parameters.get("seed")
    return f"{steps:,} steps, seed {seed}" if isinstance(steps, int) else ""


def _shown(values: Any, name: str) -> str:
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, str) else ""
