"""The weights that a training was given: brought from where they are, and held against what was written down."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from dinomill.errors import InputError
from dinomill.layers import Layers
from dinomill.reproduction.checkout import RECORDED
from dinomill.reproduction.recorded import Recorded
from dinomill.reproduction.weights import Given, bring_weights, given_weights
from dinomill.tracking import RegisteredVersion, register, set_alias
from dinomill.tracking.life import open_run
from tests.commands.programs import run
from tests.exported import card, export, registered

START = Path("weights/start")


def version(**tags: str) -> Recorded:
    return Recorded(RegisteredVersion("m", 2, (), "", {"network": "teacher", **tags}), None, None)


def settings(**parameters: Any) -> Layers:
    found = {"parameters": parameters, "globals": {"folders": {"teacher": "data/06_models/teacher"}}}
    return cast("Layers", SimpleNamespace(**found))


@pytest.fixture
def mill(tmp_path: Path) -> tuple[Path, Path, str]:
    """A project with weights that DVC has, what a clone has of it, and the weights' hash."""
    root, clone = tmp_path / "mill", tmp_path / "again"
    handle = export(root / START, "start", depth=1, seed=0)
    run(root, "dvc", "init", "--no-scm", "--quiet")
    run(root, "dvc", "add", "--quiet", str(START))
    (clone / START.parent).mkdir(parents=True)
    shutil.copy(root / f"{START}.dvc", clone / START.parent)
    return root, clone, handle.weights_sha256


def brought(root: Path, clone: Path, sha256: str | None, address: str = str(START)) -> str:
    return bring_weights(root, clone, Given("pretraining", address, sha256), version(), "sqlite:///no.db")


def test_weights_are_linked_where_they_still_lie(mill: tuple[Path, Path, str]) -> None:
    root, clone, sha256 = mill
    assert brought(root, clone, sha256) == "weights/start, as it is here"
    assert (clone / START).resolve() == root / START
    assert "the commit's" in brought(root, clone, sha256)  # it is there now


@pytest.mark.parametrize("replaced", [False, True])
def test_weights_come_from_dvc_where_they_do_not_or_are_others(mill: tuple[Path, Path, str], replaced: bool) -> None:
    root, clone, sha256 = mill
    shutil.rmtree(root / START)
    if replaced:
        export(root / START, "start", depth=1, seed=1)
    assert "by DVC's name" in brought(root, clone, sha256)
    assert not (clone / START).is_symlink() and (clone / START / "model.safetensors").is_file()


def test_what_nobody_wrote_down_is_taken_by_dvcs_name_and_said_otherwise(mill: tuple[Path, Path, str]) -> None:
    root, clone, _ = mill
    assert "by DVC's name" in brought(root, clone, None)
    shutil.rmtree(clone / START)
    (clone / f"{START}.dvc").unlink()
    assert "not recorded" in brought(root, clone, None)


def test_other_weights_and_none_are_refused_before_anything_runs(mill: tuple[Path, Path, str], tmp_path: Path) -> None:
    root, clone, _ = mill
    with pytest.raises(InputError, match=r"pretraining\.initial: the weights weights/start") as raised:
        brought(root, clone, "0" * 64)
    assert "other weights" in str(raised.value) and not (clone / START).exists()
    for address in ("weights/none", str(tmp_path / "none")):
        with pytest.raises(InputError, match="nothing of this name"):
            brought(root, clone, None, address)
    assert "as it lies there" in brought(root, clone, None, str(root / START))


def test_an_address_of_the_registry_means_what_it_meant_then(tmp_path: Path) -> None:
    """An alias has moved since: the training would have started from another network."""
    data = tmp_path / "data"
    store = registered(data)
    first = export(data / "again", "teacher", depth=1, seed=0).weights_sha256
    other = export(data / "other", "teacher", depth=1, seed=1)
    with open_run("registration", tracking_uri=store, experiment="own runs") as opened:
        register(opened, "backbone", other.folder, card(other.weights_sha256))
    given = Given("pretraining", "models:/backbone@champion", first)
    assert bring_weights(tmp_path, tmp_path / "again", given, version(), store) == "models:/backbone/1"
    set_alias(store, "backbone", "champion", 2)
    said = bring_weights(tmp_path, tmp_path / "again", given, version(), store)
    assert said == "models:/backbone/1, which models:/backbone@champion meant then"
    written = yaml.safe_load((tmp_path / "again" / RECORDED).read_text())
    assert written == {"pretraining": {"initial": "models:/backbone/1"}}
    with pytest.raises(InputError, match="means other weights now"):
        bring_weights(tmp_path, tmp_path / "again", Given("pretraining", given.address, "0" * 64), version(), store)


def test_what_stages_were_given_is_told_by_their_settings(tmp_path: Path) -> None:
    of_its_own = version(initial_sha256="a" * 64)
    assert list(given_weights(tmp_path, settings(pretraining={"initial": "x.pth"}), of_its_own)) == [
        Given("pretraining", "x.pth", "a" * 64)
    ]
    assert not list(given_weights(tmp_path, settings(pretraining={"initial": None}), of_its_own))
    handle = export(tmp_path / "data/06_models/teacher", "teacher", depth=1, seed=0)
    handle.model_copy(update={"initial": "x.pth", "initial_sha256": "b" * 64}).save()
    student = version(network="student", teacher_sha256=handle.weights_sha256)
    (one,) = given_weights(
        tmp_path, settings(pretraining={"initial": "x.pth"}, distillation={"teacher": None}), student
    )
    assert one == Given("pretraining", "x.pth", "b" * 64)
    taught = Recorded(
        student.version, cast("Any", SimpleNamespace(params={"distillation.teacher": "y.onnx"}, tags={})), None
    )
    (one,) = given_weights(tmp_path, settings(distillation={"teacher": "y.onnx"}), taught)
    assert one == Given("distillation", "y.onnx", handle.weights_sha256)
    assert one.key == "distillation.teacher"
