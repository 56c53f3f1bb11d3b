from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dinomill.planning.checks import Problem, Request, failure
from dinomill.planning.checks.labelled import check_labelled
from tests.planning.checks.conftest import picture, stopping, write_labelled

Found = Callable[..., list[Problem]]


def only(problems: list[Problem]) -> Problem:
    (problem,) = problems
    return problem


def test_a_whole_split_is_taken(root: Path, found: Found) -> None:
    assert found() == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_said(root: Path, found: Found, split: str) -> None:
    shutil.rmtree(root / "raw/labelled" / split)
    problem = only(stopping(found()))
    assert f"raw/labelled/{split}" in problem.problem
    assert problem.key == "labelled"
    assert {"train": "test", "test": "train"}[split] in str(problem.found)
    assert "null" in str(problem.action)


def test_classes_without_splits_are_recognised(root: Path, found: Found) -> None:
    shutil.rmtree(root / "raw/labelled")
    write_labelled(root / "raw", splits=("labelled",))
    problem = stopping(found())[0]
    assert "if these are the classes" in str(problem.action)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("cut.png", lambda: picture(1)[:-60], "truncated"),
        ("cut.jpg", lambda: picture(1, side=128, kind="JPEG")[:900], "truncated"),
        ("notes.doc", lambda: b"bought in May", "not_an_image"),
        ("empty.png", lambda: b"", "empty"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_that_is_no_whole_image_is_named(
    root: Path, found: Found, split: str, name: str, spoil: Callable[[], bytes], said: str
) -> None:
    (root / "raw/labelled" / split / "a" / name).write_bytes(spoil())
    problem = only(stopping(found()))
    assert f"raw/labelled/{split}/a/{name} ({said}" in str(problem.found)


def test_one_class_is_too_little(root: Path, found: Found) -> None:
    for split in ("train", "test"):
        shutil.rmtree(root / "raw/labelled" / split / "b")
    problem = only(stopping(found()))
    assert "too little to measure with" in problem.problem
    assert "1 class" in str(problem.found)


def test_so_few_images_that_none_could_be_held_back_are_too_little(root: Path, found: Found) -> None:
    shutil.rmtree(root / "raw/labelled")
    write_labelled(root / "raw/labelled", each=2)
    assert "hold 20% of a class back" in str(only(stopping(found())).expected)


def test_a_class_that_was_never_shown_is_refused(root: Path, found: Found) -> None:
    (root / "raw/labelled/test/c").mkdir()
    (root / "raw/labelled/test/c/1.png").write_bytes(picture(77))
    problem = only(stopping(found()))
    assert problem.found == "c"
    assert "same class folders" in str(problem.action)


def test_a_class_that_is_not_asked_for_is_a_warning(root: Path, found: Found) -> None:
    shutil.rmtree(root / "raw/labelled/test/b")
    problem = only(found())
    assert problem.warning
    assert problem.found == "b"


def test_the_same_images_in_both_splits(root: Path, found: Found) -> None:
    shutil.copy(root / "raw/labelled/train/a/0.png", root / "raw/labelled/test/a/copy.png")
    problem = only(found())
    assert problem.warning
    assert "1 of the 13 images of test is in train" in problem.problem
    shutil.rmtree(root / "raw/labelled/test")
    shutil.copytree(root / "raw/labelled/train", root / "raw/labelled/test")
    assert "12 of the 12" in only(stopping(found())).problem


def test_an_image_of_two_classes_is_a_warning(root: Path, found: Found) -> None:
    shutil.copy(root / "raw/labelled/train/a/0.png", root / "raw/labelled/train/b/9.png")
    problem = only(found())
    assert problem.warning
    assert problem.found == "a and b"


def test_files_in_no_class_are_a_warning(root: Path, found: Found) -> None:
    (root / "raw/labelled/train/1.png").write_bytes(picture(3))
    assert only(found()).warning


@pytest.mark.parametrize(
    ("labelled", "said"),
    [
        ("raw/nowhere", "There is no folder raw/nowhere"),
        ("raw/pool/0001.png", "are no folder"),
        ("s3://bucket/labelled", "not in a folder of this machine"),
    ],
)
def test_a_place_that_is_no_folder_is_refused(found: Found, labelled: str, said: str) -> None:
    assert said in only(stopping(found(settings={"labelled": labelled}))).problem


def test_an_empty_folder_is_refused(root: Path, found: Found) -> None:
    shutil.rmtree(root / "raw/labelled")
    (root / "raw/labelled").mkdir()
    assert len(stopping(found())) == 2


def test_without_labels_the_gate_is_told_of(found: Found) -> None:
    problem = only(found(settings={"labelled": None}))
    assert problem.warning
    assert "stays a candidate" in problem.problem


def test_a_stage_is_asked_only_for_what_it_reads(root: Path, ask: Callable[..., Request]) -> None:
    shutil.rmtree(root / "raw/labelled/test")
    assert list(check_labelled(ask(stages=("pretraining",)))) == []
    assert list(check_labelled(ask(stages=("packaging",)))) == []
    assert stopping(list(check_labelled(ask(stages=("evaluation",)))))


def test_nothing_is_decoded_twice(root: Path, ask: Callable[..., Request]) -> None:
    request = ask(stages=("evaluation",))
    assert list(check_labelled(request)) == []
    remembered = root / "data/work/checks/labelled.json"
    document = json.loads(remembered.read_text(encoding="utf-8"))
    assert len(document["files"]) == 24
    before = remembered.stat().st_mtime_ns
    assert list(check_labelled(request)) == []
    assert remembered.stat().st_mtime_ns == before
    time.sleep(0.01)
    (root / "raw/labelled/test/a/0.png").write_bytes(b"changed")
    assert len(list(check_labelled(request))) == 1
    remembered.write_text("damaged", encoding="utf-8")
    assert len(list(check_labelled(request))) == 1


def test_names_that_are_not_utf8_can_be_shown(root: Path, found: Found) -> None:
    place = os.fsencode(root / "raw/labelled/test/a") + b"/\xff.png"
    Path(os.fsdecode(place)).write_bytes(b"no picture")
    error = failure(found(), lambda key: "conf/local/globals.yml")
    assert error is not None
    assert str(error).encode("utf-8")
    assert "set in: labelled in conf/local/globals.yml" in str(error)


def _as_table(root: Path, name: str = "labels.csv") -> str:
    """The same images as a table, beside their folder."""
    rows = [
        f"labelled/{path.relative_to(root / 'raw/labelled').as_posix()},{path.parent.name},{path.parent.parent.name}\n"
        for path in sorted((root / "raw/labelled").rglob("*.png"))
    ]
    (root / "raw" / name).write_text("path,label,split\n" + "".join(rows))
    return f"raw/{name}"


def test_a_table_is_as_good_as_a_folder(root: Path, found: Found) -> None:
    table = _as_table(root)
    assert found(settings={"labelled": table}) == []
    first = sorted((root / "raw/labelled/test/a").iterdir())[0]
    first.write_bytes(b"no image")
    problem = only(stopping(found(settings={"labelled": table})))
    assert str(first.relative_to(root)) in str(problem.found)
    (root / table).write_text("path,label,split\nlabelled/nowhere.png,a,train\n")
    said = stopping(found(settings={"labelled": table}))
    assert any("are not there" in problem.problem for problem in said)
    assert any("no image of the split test" in problem.problem for problem in said)
    (root / "raw/labels.txt").write_text("no table")
    problem = only(stopping(found(settings={"labelled": "raw/labels.txt"})))
    assert "no folder and no table" in problem.problem
