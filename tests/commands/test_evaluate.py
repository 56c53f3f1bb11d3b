"""`dinomill evaluate` as somebody without a project uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
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
    assert "  over one/vit" in text  # below two/vit
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


def test_many_measures_come_in_tables_that_fit_a_terminal(
    networks: list[str], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    common = ["-m", networks[0], "-m", networks[1], "--on", str(labelled), "--cache", str(tmp_path)]
    common += ["--max-bank", "40", "--max-queries", "20"]
    text = run(*common, "-p", "knn", "-p", "few_shot", "-p", "cost", "-p", "linear")
    scores, differences = text.replace("\n", " \n").split("differences on the same images, in points:")
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    heads = ["kNN ", "1-shot ", "5-shot ", "speed, batch 1 (images/s) ", "size (MB)", "linear probe "]
    assert [scores.count(head) for head in heads] == [1] * len(heads) and "10-shot" not in scores  # none has ten
    for name in ("raw pixels", "random initialisation", "one/vit", "two/vit"):
        rows = [line for line in scores.splitlines() if line.startswith(name)]
        assert len(rows) >= 3 and "16 px" in rows[0]  # of several tables, the first with the size of the images
    # What was timed or counted has no interval: a difference of it would be noise that looks like a finding.
    assert "speed" not in differences.partition("\nspeed, batch 1, speed, batch 32: ")[0]
    assert "over one/vit" in differences and differences.count("linear probe") == 1
    found = json.loads(run(*common, "-p", "cost", "-p", "knn", "--json", "-"))
    assert {measure for gains in found["differences"].values() for measure in gains} == {"knn"}
    assert json.loads(run(*common, "-p", "cost", "--json", "-"))["differences"] == {}
    assert "differences" not in run(*common, "-p", "cost") and "95%" not in run(*common, "-p", "cost")


def test_a_network_that_gives_everything_the_same_features_is_refused(
    networks: list[str], labelled: Path, tmp_path: Path
) -> None:
    """Neighbours at equal distances come in the order of the files: it reached 100% where the classes stood so."""
    shutil.copytree(networks[0], tmp_path / "dead")
    weights = load_file(tmp_path / "dead" / "model.safetensors")
    weights["patch_embed.proj.weight"].zero_()
    save_file(weights, tmp_path / "dead" / "model.safetensors")
    with pytest.raises(DinomillError, match=r"dead gives the same features for every image of .*labelled"):
        run("-m", str(tmp_path / "dead"), "--on", str(labelled), "--cache", str(tmp_path / "c"), "-p", "knn")


def test_no_network_is_said_to_be_none(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(DinomillError, match="nowhere"):
        run("-m", str(tmp_path / "nowhere"), "--on", str(labelled), "--cache", str(tmp_path))


def _one_class(root: Path) -> Path:
    for split in ("train", "test"):
        (root / split / "shoe").mkdir(parents=True)
        Image.new("RGB", (16, 16), (len(split), 0, 0)).save(root / split / "shoe" / "a.png")
    return root


def test_what_lies_there_is_told_and_the_task_that_fits_it(networks: list[str], labelled: Path, tmp_path: Path) -> None:
    table, pairs = tmp_path / "labels.csv", tmp_path / "pairs"
    table.write_text("path,label,split\na.png,shoe,train\n")
    for split in ("train", "test"):
        for folder in ("images", "masks"):
            (pairs / folder / split).mkdir(parents=True)
            Image.new("L", (16, 16), 1).save(pairs / folder / split / "a.png")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00" * 9)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(b"")
    splits, images = ["--bank-split", "test", "--query-split", "test"], str(labelled)
    for on, options, said in (
        (table, ["--task", "segmentation"], "labels.csv is no folder.*give --task classification"),
        (table, ["--task", "retrieval"], "lacks the columns instance, role.*give --task classification"),
        (labelled, ["--task", "depth"], "no files in.*give --task classification"),
        (pairs, ["--task", "depth"], "no folder .*depth.*give --task segmentation"),
        (tmp_path / "bytes.csv", ["--task", "retrieval"], "cannot be read as a table.*UTF-8"),
        (tmp_path / "flat", [], "files without folders: a.png.*--bank-split"),
        (tmp_path / "nowhere", ["--task", "segmentation"], "There is no .*nowhere.*correct --on"),
        ("s3://bucket/labelled", [], "s3://bucket/labelled are not in a folder.*--on the folder"),
        (_one_class(tmp_path / "one"), [], "too little to measure with.*put more labelled images there$"),
        (labelled, ["--protocol", "segmentation"], "leave --protocol segmentation out, or give --task segmentation"),
        (labelled, splits, "are among those to learn from.*give --bank-split and --query-split two"),
        (labelled, ["--json", str(tmp_path / "no/x.json")], "no folder .*no for x.json.*mkdir -p"),
        (labelled, ["--json", images], "is a folder.*expected: a file"),
        (labelled, ["--cache", str(table)], "Features cannot be kept in .*labels.csv.*give --cache"),
        (labelled, ["--image-size", "100000"], "100,000 pixels is more than"),
    ):
        with pytest.raises(DinomillError) as raised:
            run("-m", networks[0], "--on", str(on), "--cache", str(tmp_path / "cache"), *options)
        assert re.search(said, str(raised.value), re.DOTALL), str(raised.value)
        assert not re.search(r"globals\.yml|_split|`labelled`", raised.value.action or "")


def test_scored_images_that_were_learnt_from_are_said(
    networks: list[str], labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(labelled, tmp_path / "set")
    known = sorted((tmp_path / "set/train/digit 3").iterdir())[0]
    shutil.copy(known, tmp_path / "set/test/digit 3/again.png")
    run("-m", networks[0], "--on", str(tmp_path / "set"), "--cache", str(tmp_path / "cache"), "-p", "knn")
    assert "1 of 121 scored images are among those to learn from, too (test/digit 3/again.png" in caplog.text


def test_features_that_are_no_numbers_are_refused_by_the_option_that_may_help(
    networks: list[str], labelled: Path, tmp_path: Path
) -> None:
    shutil.copytree(networks[0], tmp_path / "vit")
    weights = load_file(tmp_path / "vit" / "model.safetensors")
    weights["norm.weight"] = torch.full_like(weights["norm.weight"], 3e38)
    save_file(weights, tmp_path / "vit" / "model.safetensors")
    with pytest.raises(DinomillError, match="NaN or infinity") as raised:
        run("-m", str(tmp_path / "vit"), "--on", str(labelled), "--cache", str(tmp_path / "cache"), "--no-baselines")
    assert "--precision float32" in (raised.value.action or "")


def test_every_example_of_a_verb_has_a_line() -> None:
    text = CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "120"}).output
    lines = [line.strip() for line in text.split("Examples:")[1].splitlines() if line.strip()]
    assert len(lines) == 3 and all(line.startswith("dinomill evaluate ") for line in lines)


def test_grey_images_are_said_to_be_repeated_for_networks_that_take_colour(
    networks: list[str], labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "dinomill.evaluation.compare"):
        run("-m", networks[0], "--on", str(labelled), "--cache", str(tmp_path), "-p", "knn", "--no-baselines")
    (said,) = [record.message for record in caplog.records if "repeated into three channels" in record.message]
    assert said.startswith(f"The images of the set {labelled.name} are grey, and vit takes colour")
