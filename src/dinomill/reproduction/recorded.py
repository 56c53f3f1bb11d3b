"""What the registry and the store say of how a version came about, and dvc.lock where they do not know its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinomill import tracking
from dinomill.errors import InputError
from dinomill.layers import Layers, environments
from dinomill.reproduction.locked import merged
from dinomill.tracking.dvc_commits import Files, Locked, lock_of

_STAGES = {"teacher": ("pretraining",), "student": ("pretraining", "distillation")}


@dataclass(frozen=True)
class Recorded:
    """A version as it was made.

    Args:
        version: In the registry.
        run: That trained it; None where the store does not know it, as in a clone.
        teacher_run: That trained its teacher; None for a teacher, or where the store does not know it.
        lock: Of the first commit whose dvc.lock has it, looked for where one of the runs is not known.
    """

    version: tracking.RegisteredVersion
    run: tracking.RunFacts | None
    teacher_run: tracking.RunFacts | None
    lock: Locked | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The version's."""
        return self.version.tags

    def tags_with(self, curated: str | Path) -> dict[str, str]:
        """The version's tags; DVC's name of its dataset, which lies there, is the lock's where nobody tagged it."""
        named = self.lock and self.lock.dependency(self.stages[-1], Path(curated).as_posix())
        return ({"dvc_curated": named} if named else {}) | self.tags

    @property
    def commit(self) -> str:
        """Of the code that trained it."""
        return self._said_commit.rstrip("+")

    @property
    def dirty(self) -> bool:
        """Whether tracked files differed from that commit."""
        return self._said_commit.endswith("+")

    @property
    def _said_commit(self) -> str:
        if self.run is None and self.lock is not None:
            return self.lock.commit
        said = {} if self.run is None else self.run.tags
        return said.get("git_commit") or self.version.tags.get("training_commit") or self.version.tags["git_commit"]

    @property
    def environment(self) -> str | None:
        """The environment that it was trained in; None where nobody wrote it down."""
        if self.run is None:
            return None if self.lock is None else self.lock.environment
        return self.run.tags.get("environment")

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that make it from its dataset."""
        network = self.version.tags.get("network", "student")
        named = None
        if self.run is not None:
            named = self.run.params.get("distillation.teacher")
        elif self.lock is not None:
            named = merged(self.lock.params("distillation")).get("distillation.teacher")
        if network == "student" and named not in (None, "None", "pretraining"):
            return ("distillation",)  # its teacher was given
        return _STAGES[network]

    def run_of(self, stage: str) -> tracking.RunFacts | None:
        """The run of one of its stages."""
        return self.run if stage == self.stages[-1] else self.teacher_run

    def locked(self, stage: str) -> Files:
        """The settings of a stage as dvc.lock has them, by file; empty where the run says them, or no lock does."""
        return {} if self.lock is None or self.run_of(stage) is not None else self.lock.params(stage)


def recorded(address: str, store: str, root: Path) -> Recorded:
    """Look a version up.

    Args:
        address: ``models:/name/version`` or ``models:/name@alias``.
        store: The MLflow store.
        root: The project, whose commits are asked where the store does not know a training.

    Raises:
        InputError: When there is no such version, or too little is known of it.
        MachineError: When the store cannot be reached.
    """
    version = tracking.resolve(address, store)
    tags = version.tags
    run = tracking.run_facts(store, tags["training_run"]) if tags.get("training_run") else None
    student = tags.get("network", "student") == "student"
    teacher = tags.get("teacher_sha256") if student else None
    made = tracking.run_of_weights(store, teacher) if teacher else None
    teacher_run = tracking.run_facts(store, made) if made else None
    lock = _lock(root, tags) if run is None or (teacher and teacher_run is None) else None
    if run is None and lock is None:
        raise InputError(
            f"Nobody here knows how {version.uri} was trained.",
            found=f"training_run {tags.get('training_run', 'not recorded')}: the store {tracking.redact(store)} has no "
            "such run; and no dvc.lock of any commit here has its weights"
            + ("" if tags.get("dvc_model") else ", as far as DVC's cache has what they name"),
            expected="its run, or the commit of its dvc.lock: either has the settings and the code",
            action="name the store in which it was trained by MLFLOW_TRACKING_URI, or `git fetch --all` (of a shallow "
            "clone: `git fetch --unshallow`)",
        )
    if run is not None and not (run.tags.get("git_commit") or tags.get("training_commit") or tags.get("git_commit")):
        raise InputError(
            f"Nobody wrote down which code made {version.uri}.",
            found="no tag git_commit: it was trained outside of git",
            action="train in a git repository; this version can be used, but not made again",
        )
    return Recorded(version, run, teacher_run, lock)


def _lock(root: Path, tags: Mapping[str, str]) -> Locked | None:
    """The lock that has the version's weights: by DVC's name of them, or by what the handles in DVC's cache say."""
    weights = tags.get(tracking.WEIGHTS_TAG)
    folder = "teacher" if tags.get("network") == "teacher" else "students"

    def is_it(handle: Mapping[str, Any]) -> bool:
        one = (handle.get("students") or {}).get(tags.get("model")) if folder == "students" else handle
        return bool(weights) and (one or {}).get(tracking.WEIGHTS_TAG) == weights

    places = [
        Layers(env, conf=root / "conf").globals["folders"][folder] for env in (None, *environments(root / "conf"))
    ]
    return lock_of(root, dict.fromkeys(places), tags.get("dvc_model"), is_it)
