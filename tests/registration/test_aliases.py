"""Aliases are moved on record, one decision at a time, and back."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from dinomill import tracking
from dinomill.errors import InputError
from dinomill.registration.aliases import history, move, one_at_a_time
from dinomill.registration.config import AliasesConfig


@pytest.fixture
def model(store: str, request: pytest.FixtureRequest) -> str:
    """A registered model with three versions, and nothing in them."""
    client = MlflowClient(tracking.resolve_uri(store), tracking.resolve_uri(store))
    tracking.versions(store, "none")  # the database is made
    name = str(request.node.name)
    client.create_registered_model(name)
    for _ in range(3):
        client.create_model_version(name, source="file:///nowhere")
    return name


def test_moves_are_recorded_in_order(store: str, model: str) -> None:
    move(store, model, "champion", 1, before=None, because="first")
    move(store, model, "champion", 3, before=1, because='he said "go" — ok', forced=True, overruled=["kNN is worse"])
    move(store, model, "champion-prod", 2, before=None)
    champion = history(store, model, "champion")
    assert [(one.before, one.after) for one in champion] == [(None, 1), (1, 3)]
    assert champion[1].forced and champion[1].overruled == ("kNN is worse",)
    assert "version 1 → version 3  by " in champion[1].sentence and champion[1].because == 'he said "go" — ok'
    assert [one.alias for one in history(store, model)] == ["champion", "champion", "champion-prod"]
    move(store, model, "champion", None, before=3)
    assert tracking.version_by_alias(store, model, "champion") is None
    aliases = {one.version: one.aliases for one in tracking.versions(store, model)}
    assert aliases == {1: (), 2: ("champion-prod",), 3: ()}


def test_a_decision_against_another_version_is_not_carried_out(store: str, model: str) -> None:
    move(store, model, "champion", 2, before=None)
    with pytest.raises(InputError, match="moved meanwhile"):
        move(store, model, "champion", 3, before=1)
    found = tracking.version_by_alias(store, model, "champion")
    assert found is not None and found.version == 2 and len(history(store, model)) == 1


def test_two_decisions_at_once(store: str) -> None:
    with (
        one_at_a_time(store, "ours"),
        pytest.raises(InputError, match="Another process"),
        one_at_a_time(store, "ours"),
    ):
        pass
    with one_at_a_time(store, "ours"), one_at_a_time(store, "theirs"):
        pass


def test_what_was_edited_by_hand_is_no_move(store: str, model: str) -> None:
    for key, value in {"alias.champion.17": "{", "alias.champion.18": "[1]", "alias.x": "1", "other": "y"}.items():
        tracking.tag_model(store, model, key, value)
    assert history(store, model) == []


@pytest.mark.parametrize("name", ["latest", "v3", "V3", "3", "", "a/b", "../x", "a b", "@champion", "ä", "a" * 101])
def test_no_alias(name: str) -> None:
    with pytest.raises(ValueError, match="alias"):
        AliasesConfig(champion=name)


def test_two_names() -> None:
    assert AliasesConfig(champion="champion-prod").champion == "champion-prod"
    with pytest.raises(ValueError, match="two names"):
        AliasesConfig(champion="candidate")
