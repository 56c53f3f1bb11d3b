"""`dinomill evaluate` as somebody without a project uses it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dinomill.commands.app import app
from dinomill.errors import DinomillError
from dinomill.evaluation import features
from tests.digits import lay_out
from tests.exported import export


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("networks")
    export(root / "one" / "vit", "one", depth=3, seed=1)
    export(root / "two" / "vit", "two", depth=1, seed=2)
    return [str(root / name / "vit") for name in ("one", "two")]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_two_networks_are_held_against_each_other_and_a_second_protocol_costs_no_pass(
    networks: list[str],
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, file = tmp_path / "cache", tmp_path / "scores.json"
    common = ["-m", networks[0], "-m", networks[1], "--on", str(labelled), "--cache", str(cache)]
    text = run(*common, "--json", str(file))
    for said in ("raw pixels", "random initialisation", "one/vit", "two/vit", "chance", "120 images scored, 300 to"):
        assert said in text
    assert "two/vit over one/vit" in text
    found = json.loads(file.read_text())
    assert [model["kind"] for model in found["models"]] == ["pixels", "random", "model", "model"]
    pixels, _, first, second = found["models"]
    assert pixels["scores"]["knn"]["value"] > 0.85
    assert [model["address"] for model in (first, second)] == networks and first["licence"] == "unknown"
    assert len({first["sha256"], second["sha256"]}) == 2
    gained = found["differences"]["two/vit over one/vit"]["knn"]["value"]
    assert gained == pytest.approx(second["scores"]["knn"]["value"] - first["scores"]["knn"]["value"], abs=2e-6)
    assert found["images"]["classes"] == [f"digit {number}" for number in range(10)]
    assert set(found["sources"]) == {"knn", "linear"}
    monkeypatch.setattr(features, "_run", None)  # any forward pass would fail now
    again = json.loads(run(*common, "-p", "few_shot", "--json", "-"))
    assert [measure["name"] for measure in again["measures"]] == ["few_shot_1", "few_shot_5", "few_shot_10"]
    assert run(*common) == text.replace(f"\nwritten: {file}\n", "")


def test_what_is_old_goes_from_the_users_cache_and_from_no_folder_that_was_named(
    networks: list[str], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    own, named = tmp_path / "xdg/dinomill/evaluation/features/old.npy", tmp_path / "named/photo.jpg"
    for path in (own, named):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"old")
        os.utime(path, (0, 0))
    common = ["-m", networks[0], "--on", str(labelled), "--max-bank", "40", "--max-queries", "10", "-p", "knn"]
    run(*common)
    run(*common, "--cache", str(named.parent))
    assert named.exists() and not own.exists()
    assert list(own.parent.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "juggling"], "no task 'juggling'"),
        (["--protocol", "nearest"], "no protocol 'nearest'"),
        (["--query-split", "val"], "no labelled split"),
        (["--set", "scale"], "is no setting"),
        (["--set", "skale=3"], "unknown key 'skale'"),
    ],
)
def test_what_is_wrong_is_said_in_terms_of_the_options(
    networks: list[str],
    labelled: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    with pytest.raises(DinomillError, match=said) as raised:
        run("-m", networks[0], "--on", str(labelled), "--cache", str(tmp_path), *arguments)
    assert "globals.yml" not in str(raised.value) and "--params" not in str(raised.value)


def test_a_set_of_another_task_is_told_by_its_folders_or_columns(networks: list[str], tmp_path: Path) -> None:
    for folder, task in (("masks", "segmentation"), ("depth", "depth")):
        for inside in ("images", folder):
            (tmp_path / folder / inside / "train").mkdir(parents=True)
        with pytest.raises(DinomillError) as raised:
            run("-m", networks[0], "--on", str(tmp_path / folder), "--cache", str(tmp_path / "cache"))
        assert raised.value.action == f"give --task {task}"
    (tmp_path / "list.csv").write_text("path,instance,role\na.png,tower,query\n")
    with pytest.raises(DinomillError) as raised:
        run("-m", networks[0], "--on", str(tmp_path / "list.csv"), "--cache", str(tmp_path / "cache"))
    assert raised.value.action == "give --task retrieval"


def test_a_table_is_called_by_its_name_and_a_gallery_is_none_to_learn_from(
    networks: list[str], labelled: Path, tmp_path: Path
) -> None:
    common = ["-m", networks[0], "--cache", str(tmp_path / "cache"), "--no-baselines"]
    rows = [(path, path.parent.name, path.parent.parent.name) for path in sorted(labelled.rglob("*.png"))]
    (tmp_path / "labels.csv").write_text("path,label,split\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    text = run(*common, "--on", str(tmp_path / "labels.csv"), "-p", "knn")
    assert f"{tmp_path / 'labels.csv'}: 120 images scored, 300 to learn from" in text.replace("\n", "")
    found = [f"{path},{label},{'query' if split == 'test' else 'easy'}\n" for path, label, split in rows]
    (tmp_path / "list.csv").write_text("path,instance,role\n" + "".join(found))
    on = ["--on", str(tmp_path / "list.csv"), "--task", "retrieval"]
    assert "120 images scored, 300 in the gallery" in run(*common, *on).replace("\n", " ")
    assert json.loads(run(*common, *on, "--json", "-"))["images"]["folder"] == str(tmp_path / "list.csv")


def test_differences_that_are_no_points_are_not_called_points(
    networks: list[str], labelled: Path, tmp_path: Path
) -> None:
    common = ["-m", networks[0], "-m", networks[1], "--on", str(labelled), "--cache", str(tmp_path), "--no-baselines"]
    common += ["--max-bank", "40", "--max-queries", "10", "-p", "knn"]
    assert "on the same images, in points" in run(*common)
    assert "on the same images, of per cent in points" in run(*common, "-p", "cost")


def test_no_network_is_said_to_be_none(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(DinomillError, match="nowhere"):
        run("-m", str(tmp_path / "nowhere"), "--on", str(labelled), "--cache", str(tmp_path))
