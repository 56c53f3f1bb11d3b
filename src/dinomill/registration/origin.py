"""Where a version comes from, as tags: its training, and DVC's names of what it was made of.

Not all of it is known when a version is registered: DVC looks after `kedro run` has ended, a remote is named later, a
clone has the results and not the runs. So every look asks again, and adds what is known by then.

Tags of the version:

    training_run       that made the weights, where this store knows it
    training_commit    of the code that did: as that run says; else the first commit whose dvc.lock has the weights
    dvc_curated, dvc_model, dvc_evaluation, dvc_remote      DVC's hashes of the folders, and where they were pushed to
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from dinomill import tracking
from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.layers.project import project_above
from dinomill.registration.config import RegistrationConfig
from dinomill.tracking.dvc_commits import lock_of

log = logging.getLogger(__name__)

_RUN, _COMMIT, _EVALUATION = "training_run", "training_commit", "dvc_evaluation"
_TAGS = (_RUN, _COMMIT, "dvc_curated", "dvc_model", _EVALUATION, "dvc_remote")


def origin(
    store: str,
    model: ModelHandle,
    students: StudentsHandle,
    evaluation: EvaluationHandle,
    curated: DatasetHandle,
    config: RegistrationConfig,
    known: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The tags that can be said now.

    Args:
        store: The MLflow store, which is asked for the training.
        model: The registered network.
        students: Among which it lies.
        evaluation: That measured it.
        curated: What it was trained on.
        config: Whose ``network`` says where it lies.
        known: Tags of the version: a training that stands there is not looked for again.
    """
    known = known or {}
    folder = students.folder if config.network == "student" else model.folder
    found = {
        "dvc_curated": tracking.dvc_version(curated.folder),
        "dvc_model": tracking.dvc_version(folder),
        _EVALUATION: tracking.dvc_version(evaluation.folder),
        "dvc_remote": tracking.dvc_remote(),
    }
    if _RUN not in known:
        found[_RUN] = tracking.run_that_made(store, model.name, model.weights_sha256)
    if _COMMIT not in known:
        run = found.get(_RUN) or known.get(_RUN)
        found[_COMMIT] = _commit_of(store, run) if run else _commit_with(folder, found["dvc_model"])
    return {key: found[key] for key in _TAGS if found.get(key)}  # type: ignore[misc]


def learned(version: tracking.RegisteredVersion, now: Mapping[str, str]) -> dict[str, str]:
    """Of what can be said now, what the version does not say yet. What contradicts it is named, and left.

    The evaluation is no part of what the version was made of: the one that measured it last is written over the other.
    """
    for key, value in now.items():
        said = version.tags.get(key)
        if key != _EVALUATION and said not in (None, value):
            log.warning(
                "%s has the tag %s: %s. Here it is %s now; the tag stays. Where that is wrong, delete it on the page "
                "of the version: the next registration writes it anew.",
                version.uri, key, said, value,
            )  # fmt: skip
    may_say = (key for key in now if key == _EVALUATION or key not in version.tags)
    return {key: now[key] for key in may_say if version.tags.get(key) != now[key]}


def outdated(known: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """The tags of a version that name an evaluation of before, where DVC knows none of the present one."""
    return (_EVALUATION,) if _EVALUATION in known and _EVALUATION not in now else ()


def kept(version: tracking.RegisteredVersion, now: Mapping[str, str]) -> dict[str, str]:
    """The tags of a version that is judged anew: as they were, but for the evaluation, which is another one."""
    origins = {key: value for key, value in now.items() if key in _TAGS and key != _EVALUATION}
    learned(version, origins)
    return {key: version.tags[key] for key in _TAGS if key in version.tags and key != _EVALUATION}


def _commit_of(store: str, run_id: str) -> str | None:
    run = tracking.run_facts(store, run_id)
    return None if run is None else run.tags.get("git_commit")


def _commit_with(folder: Path, version: str | None) -> str | None:
    """The first commit whose lock has a folder."""
    root = project_above(Path.cwd())
    if root is None or version is None:
        return None
    place = (root / folder).resolve().relative_to(root.resolve()).as_posix()
    found = lock_of(root, [place], version)
    return None if found is None else found.commit
