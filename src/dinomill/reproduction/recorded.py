"""What the registry and the store say of how a version came about."""

from __future__ import annotations

from dataclasses import dataclass

from dinomill import tracking
from dinomill.errors import InputError

_STAGES = {"teacher": ("pretraining",), "student": ("pretraining", "distillation")}


@dataclass(frozen=True)
class Recorded:
    """A version as it was made.

    Args:
        version: In the registry.
        run: That trained it.
        teacher_run: That trained its teacher; None for a teacher, or where the store does not know it.
    """

    version: tracking.RegisteredVersion
    run: tracking.RunFacts
    teacher_run: tracking.RunFacts | None

    @property
    def tags(self) -> dict[str, str]:
        """The version's."""
        return self.version.tags

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
        return self.run.tags.get("git_commit") or self.tags["git_commit"]

    @property
    def environment(self) -> str | None:
        """The environment that it was trained in; None where nobody wrote it down."""
        return self.run.tags.get("environment")

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that make it from its dataset."""
        named = self.run.params.get("distillation.teacher")
        if self.tags.get("network") == "student" and named not in (None, "None", "pretraining"):
            return ("distillation",)  # its teacher was given
        return _STAGES[self.tags.get("network", "student")]

    def run_of(self, stage: str) -> tracking.RunFacts | None:
        """The run of one of its stages."""
        return self.run if stage == self.stages[-1] else self.teacher_run


def recorded(address: str, store: str) -> Recorded:
    """Look a version up.

    Args:
        address: ``models:/name/version`` or ``models:/name@alias``.
        store: The MLflow store.

    Raises:
        InputError: When there is no such version, or too little is known of it.
        MachineError: When the store cannot be reached.
    """
    version = tracking.resolve(address, store)
    tags = version.tags
    if not tags.get("git_commit"):
        raise InputError(
            f"Nobody wrote down which code made {version.uri}.",
            found="no tag git_commit: it was trained outside of git",
            action="train in a git repository; this version can be used, but not made again",
        )
    run = tracking.run_facts(store, tags["training_run"]) if tags.get("training_run") else None
    if run is None:
        raise InputError(
            f"The store {tracking.redact(store)} does not know the run that trained {version.uri}.",
            found=f"training_run {tags.get('training_run', 'not recorded')}",
            expected="its run, which has the settings",
            action="name the store in which it was trained by MLFLOW_TRACKING_URI",
        )
    teacher = tags.get("teacher_sha256")
    made = tracking.run_of_weights(store, teacher) if teacher and tags.get("network") == "student" else None
    return Recorded(version, run, tracking.run_facts(store, made) if made else None)
