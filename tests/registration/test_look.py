"""Registration looks at the registry every time, and says the same as it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dinomill import tracking
from dinomill.handles import RegistrationHandle
from dinomill.registration.config import RegistrationConfig
from dinomill.registration.register import register_model

Register = Callable[..., RegistrationHandle]


@pytest.fixture
def register(tmp_path, store, teacher, students, evaluated, curated, request) -> Register:
    """Registers the same student with other settings, as DVC and Kedro do again and again."""

    def run(where: str = store, scores: Any = None, **changes: Any) -> RegistrationHandle:
        values = {"output": tmp_path / "registration", "name": request.node.name, "tracking": {"tracking_uri": where}}
        values["gate"] = {"max_drop_from_champion": 3, **changes.pop("gate", {})}
        config = RegistrationConfig.parse(values | changes, where="the test")
        return register_model(teacher, students, scores or evaluated(), curated, config)

    return run


@pytest.fixture
def runs(store: str) -> Iterator[Callable[[], int]]:
    client = MlflowClient(store)
    yield lambda: len(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def files(handle: RegistrationHandle) -> dict[str, bytes]:
    found = [path for path in handle.folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(handle.folder)): path.read_bytes() for path in found}


def test_a_look_that_finds_all_as_it_was_changes_nothing(register: Register, runs: Callable[[], int]) -> None:
    first = register()
    before, count = files(first), runs()
    assert register() == first
    assert files(first) == before
    assert runs() == count, "a look left a run"


def test_a_gate_that_is_raised_and_lowered_again_says_the_same_everywhere(register: Register, store: str) -> None:
    """DVC took the handle of before from its run cache: it said passed, and MLflow failed."""
    client = MlflowClient(store)
    first = register()
    raised = register(gate={"min_gain_over_random": 60})
    version = client.get_model_version(first.model, str(first.version))
    assert (raised.passed_gate, version.tags["gate"]) == (False, "failed")
    lowered = register()
    version = client.get_model_version(first.model, str(first.version))
    assert (lowered.passed_gate, version.tags["gate"]) == (True, "passed")
    assert lowered == first


def test_an_empty_registry_is_filled_and_gives_the_same_bytes(register: Register, tmp_path: Path) -> None:
    """After `dvc pull` into a fresh clone the handle said champion, and there was no such model."""
    first = register()
    before = files(first)
    fresh = f"sqlite:///{tmp_path}/fresh/mlflow.db"
    register(where=fresh)
    assert files(first) == before
    champion = tracking.version_by_alias(fresh, first.model, "champion")
    assert champion is not None and champion.tags["weights_sha256"] == first.weights_sha256


def test_a_decision_stands_when_it_was_taken_against_a_champion_of_before(
    register: Register, store: str, evaluated: Any
) -> None:
    """Asked again, it would find itself as the champion, and nothing to compare with: other bytes each time."""
    register(network="teacher")
    student = register()
    assert any("from version 1, the champion" in sentence for sentence in student.gate)
    assert student.aliases == ("candidate", "champion")
    assert register() == student


def test_an_alias_that_was_moved_by_hand_stays(register: Register, store: str) -> None:
    teacher = register(network="teacher")
    student = register()
    tracking.set_alias(store, student.model, "champion", teacher.version)
    looked = register()
    assert (looked.aliases, looked.uri) == (("candidate",), f"models:/{student.model}@candidate")
    champion = tracking.version_by_alias(store, student.model, "champion")
    assert champion is not None and champion.version == teacher.version


def test_what_was_chosen_again_is_the_candidate_again(register: Register, store: str) -> None:
    first, second = register(network="teacher"), register()
    again = register(network="teacher")
    assert (again.version, again.aliases) == (first.version, ("candidate", "champion"))
    assert second.version != first.version


def test_a_forced_version_is_made_once(register: Register) -> None:
    """A stage that always looks made a version at every look."""
    first = register()
    forced = register(force=True)
    assert forced.version == first.version + 1
    assert register(force=True) == forced


def test_new_scores_are_judged_and_shown(register: Register, store: str, evaluated: Any) -> None:
    first = register()
    worse = register(scores=evaluated(student=0.61))
    assert (worse.version, worse.passed_gate) == (first.version, False)
    version = MlflowClient(store).get_model_version(first.model, str(first.version))
    assert version.tags["gate"] == "failed" and "61.0" in version.description


def test_the_training_run_is_found_by_what_it_made(register: Register, tmp_path: Path, students: Any) -> None:
    store = f"sqlite:///{tmp_path}/own.db"  # in another test's, the run would be taken for the maker of its network
    student = students.students["small"]
    with tracking.open_run("distillation", tracking_uri=store) as run:
        run.log_model_made("small", student.weights_sha256, {"steps": 3})
    handle = register(where=store, force=True)
    version = MlflowClient(store).get_model_version(handle.model, str(handle.version))
    assert version.tags["training_run"] == run.run_id
    assert str(run.run_id) in version.description
    assert (
        str(run.run_id)
        not in (handle.folder / "model_card.md").read_text() + (handle.folder / "handle.json").read_text()
    )
