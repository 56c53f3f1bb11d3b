"""The registry of a real SQLite store, under names as people give them."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from dinomill.errors import InputError
from dinomill.tracking import RegisteredVersion, find_version, resolve, set_alias, versions

NAMES = ("backbone", "modèle", "it's", 'the "big" one', 'it\'s "both"', "a\\'b", "ends\\", "日本", "50% % _")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of its own in which every name has one version."""
    from dinomill.tracking.connection import connect

    store = f"sqlite:///{tmp_path_factory.mktemp('named')}/mlflow.db"

    client: MlflowClient = connect(store)
    for name in NAMES:
        client.create_registered_model(name)
        client.create_model_version(name, "s3://bucket/model", tags={"of": name})
    return store


@pytest.mark.parametrize("name", NAMES)
def test_a_version_is_found_under_any_name(named: str, name: str) -> None:
    """Of a name with an accent or a quote the registry knew nothing, and the next run registered it again."""
    set_alias(named, name, "champion", 1)
    (found,) = versions(named, name)
    assert (found.name, found.tags["of"], found.aliases) == (name, name, ("champion",))
    assert find_version(named, name, {"of": name}) == resolve(f"models:/{name}@champion", named)
    assert find_version(named, name, {"of": "another"}) is None


def test_a_model_without_the_alias_is_told_how_a_version_gets_it(named: str) -> None:
    """It was told to run registration, which had run: its gate had failed."""
    with pytest.raises(InputError, match="has no models:/backbone@nobody") as refused:
        resolve("models:/backbone@nobody", named)
    assert "dinomill promote VERSION --alias nobody" in str(refused.value.action)
    with pytest.raises(InputError) as refused:
        resolve("models:/unheard@nobody", named)
    assert "--pipelines registration" in str(refused.value.action)


def test_who_made_a_version_is_its_training_where_that_is_known() -> None:
    assert RegisteredVersion("mill", 7, (), "2e").made_by == "2e"
    assert RegisteredVersion("mill", 7, (), "2e", {"training_run": "1f"}).made_by == "1f"
    assert RegisteredVersion("mill", 7, (), "").made_by == ""
