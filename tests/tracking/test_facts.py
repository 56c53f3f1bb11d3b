"""What a store wrote down of a run, also where parts of it are gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill import tracking
from dinomill.tracking.connection import connect


@pytest.fixture
def child(tmp_path: Path) -> tuple[str, str, str]:
    """A store with a run and its parent: their ids."""
    store = f"sqlite:///{tmp_path}/mlflow.db"
    at_work = tracking.Invocation("start", "kedro run", lambda: tracking.Described({"hardware": "a machine"}))
    with tracking.invocation(at_work), tracking.open_run("pretraining", tracking_uri=store) as run:
        run.set_tags({"health": "good"})
    return store, str(run.run_id), str(run.parent)


def test_a_purged_parent_is_no_parent(child: tuple[str, str, str]) -> None:
    store, run, parent = child
    facts = tracking.run_facts(store, run)
    assert facts is not None and facts.tags["hardware"] == "a machine"
    connect(store)._tracking_client.store._hard_delete_run(parent)  # as `mlflow gc` does
    facts = tracking.run_facts(store, run)
    assert facts is not None and "hardware" not in facts.tags and facts.tags["health"] == "good"
    assert facts.configuration == {}


def test_no_run_is_none(child: tuple[str, str, str]) -> None:
    store, _, _ = child
    assert tracking.run_facts(store, "") is None
    assert tracking.run_facts(store, "0" * 32) is None
