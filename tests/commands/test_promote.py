"""Promotion of real versions of a real registry, measured on real digits; its refusals, its record, the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dinomill import tracking
from dinomill.commands.promote import promote, rollback, show_versions
from dinomill.commands.registry import Registry
from dinomill.errors import ConfigError, InputError, MachineError
from dinomill.evaluation.protocols.cost import Speed
from dinomill.registration.aliases import history, one_at_a_time
from dinomill.storage.hashing import hash_file
from tests.digits import lay_out
from tests.exported import card, registered


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with digits and two versions, of which the second is worse."""
    root = tmp_path_factory.mktemp("project")
    (root / "conf" / "base").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    lay_out(root / "digits")
    places = {name: f"data/{name}" for name in ("curated", "work")}
    store = registered(root / "data")
    settings = {"labelled": "digits", "tracking_uri": store, "folders": places, "experiment": "x", "model": "backbone"}
    (root / "conf" / "base" / "globals.yml").write_text(yaml.safe_dump(settings))
    parameters = {
        "registration": {"output": "data/registration", "name": "backbone"},
        "evaluation": {"output": "data/evaluation", "work": "data/work", "measured": ["knn"], "bootstrap": 200},
    }
    (root / "conf" / "base" / "parameters.yml").write_text(yaml.safe_dump(parameters))
    _worse_version(root, store)
    return root


def _worse_version(root: Path, store: str) -> None:
    """Version 2: its features tell next to nothing."""
    import torch

    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.models import build, save_backbone, variant

    model = build(variant("nano", patch_size=4, image_size=16, depth=1, layerscale=0.5))
    with torch.no_grad():
        model.patch_embed.proj.weight.zero_()
    folder = root / "data" / "worse"
    save_backbone(folder, model, PreprocessingConfig.square(16, (0.3,) * 3, (0.35,) * 3).section())
    with tracking.open_run("registration", tracking_uri=store, experiment="own runs") as run:
        tracking.register(run, "backbone", folder, card(hash_file(folder / "model.safetensors")))


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project as it was made: version 1 is the champion."""
    monkeypatch.chdir(made)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Registry.of(None).store
    tracking.set_alias(store, "backbone", "champion", 1)
    yield made
    for one in tracking.versions(store, "backbone"):
        for alias in one.aliases:
            tracking.set_alias(store, "backbone", alias, None)


def test_a_regression_is_refused_with_its_reason(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("2", alias=None, env=None, force=False, because=None) == 1
    said = capsys.readouterr().out
    assert "FAILED: kNN on labelled is -" in said and "from version 1; at most 1 below is allowed" in said
    assert "told: it has " in said and 'dinomill promote 2 --alias champion --force --because "…"' in said
    found = tracking.version_by_alias(Registry.of(None).store, "backbone", "champion")
    assert found is not None and found.version == 1


@pytest.mark.parametrize(
    ("measure", "found"),
    [
        ("knnn", "measures of labelled: knn"),
        ("images_per_second_1", "measures of labelled: knn"),
        ("size", "measures of labelled: knn"),
        ("birds/knn", "labelled sets: labelled"),
    ],
)
def test_a_gate_that_would_compare_nothing_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, measure: str, found: str
) -> None:
    """A version was promoted by a gate whose measure is timed, or is none."""
    parameters = project / "conf" / "base" / "parameters.yml"
    before = parameters.read_text()
    values = yaml.safe_load(before)
    values["registration"]["gate"] = {"measure": measure}
    values["evaluation"]["measured"] = ["knn", "cost"]
    parameters.write_text(yaml.safe_dump(values))
    monkeypatch.setattr("dinomill.evaluation.protocols.cost.Cost._time", lambda *_: Speed({1: 3.0, 32: 7.0}, None))
    try:
        with pytest.raises(ConfigError, match=f"registration.gate.measure asks for {measure}") as refused:
            promote("2", alias=None, env=None, force=False, because=None)
    finally:
        parameters.write_text(before)
    assert refused.value.found == found
    present = tracking.version_by_alias(Registry.of(None).store, "backbone", "champion")
    assert present is not None and present.version == 1


def test_commands_that_are_shown_name_the_environment(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "conf" / "field").mkdir(exist_ok=True)
    (project / "conf" / "field" / "globals.yml").write_text("{}\n")
    assert promote("2", alias=None, env="field", force=True, because="a try") == 0
    assert "`dinomill rollback --alias champion --env field` takes it back" in capsys.readouterr().out
    with pytest.raises(InputError, match="is no version") as refused:
        promote("no version", alias=None, env="field", force=False, because=None)
    assert "`dinomill versions --env field`" in str(refused.value.action)
    with pytest.raises(InputError, match="has no models:/backbone/77") as refused:
        promote("77", alias=None, env="field", force=False, because=None)
    assert "`kedro run --pipelines registration --env field`" in str(refused.value.action)


def test_forced_recorded_and_taken_back(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry.of(None)
    with pytest.raises(InputError, match="needs a reason"):
        promote("2", alias=None, env=None, force=True, because="  ")
    assert promote("v2", alias=None, env=None, force=True, because="the new camera") == 0
    last = history(registry.store, "backbone", "champion")[-1]
    assert (last.before, last.after, last.forced, last.because) == (1, 2, True, "the new camera")
    assert any("kNN on labelled is -" in sentence for sentence in last.overruled)
    assert promote("2", alias=None, env=None, force=False, because=None) == 0  # it has it already
    assert "nothing was changed" in capsys.readouterr().out
    assert rollback(alias=None, to=None, env=None, because=None) == 0
    assert "champion is version 1 now; it was at version 2" in capsys.readouterr().out
    assert rollback(alias=None, to=None, env=None, because=None) == 0  # and that is taken back
    found = tracking.version_by_alias(registry.store, "backbone", "champion")
    assert found is not None and found.version == 2
    assert promote("models:/backbone/1", alias=None, env=None, force=False, because=None) == 0  # it is better
    assert "passed: kNN on labelled is +" in capsys.readouterr().out
    show_versions(None)
    assert "forced: the new camera" in capsys.readouterr().out


def test_an_alias_of_ones_own(project: Path) -> None:
    store = Registry.of(None).store
    assert promote("champion", alias="champion-prod", env=None, force=False, because=None) == 0
    found = tracking.version_by_alias(store, "backbone", "champion-prod")
    assert found is not None and found.version == 1
    assert rollback(alias="champion-prod", to=None, env=None, because=None) == 0
    assert tracking.version_by_alias(store, "backbone", "champion-prod") is None
    assert rollback(alias="champion-prod", to="2", env=None, because="a try") == 0
    tracking.set_alias(store, "backbone", "champion-prod", 1)
    with pytest.raises(InputError, match="by other means"):
        rollback(alias="champion-prod", to=None, env=None, because=None)
    with pytest.raises(InputError, match="No move of the alias unheard"):
        rollback(alias="unheard", to=None, env=None, because=None)


@pytest.mark.parametrize(
    "version",
    ["0", "99", "-1", "", "latest", "nosuch", "models:/other/1", "models:/", "../1", "1; drop", "9" * 30, "1.0"],
)
def test_no_version(project: Path, version: str) -> None:
    with pytest.raises(InputError):
        promote(version, alias=None, env=None, force=True, because="x")


@pytest.mark.parametrize("alias", ["latest", "v2", "a/b", "../x", "", " ", "ä"])
def test_no_alias(project: Path, alias: str) -> None:
    if alias:
        with pytest.raises(InputError, match="cannot be an alias"):
            promote("1", alias=alias, env=None, force=True, because="x")


def test_two_at_once(project: Path) -> None:
    registry = Registry.of(None)
    with one_at_a_time(registry.store, registry.name), pytest.raises(InputError, match="Another process"):
        promote("2", alias=None, env=None, force=True, because="x")


def test_without_its_server(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MachineError, match="cannot be used"):
        promote("2", alias=None, env=None, force=True, because="x")
