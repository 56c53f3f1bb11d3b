"""Folders of classes and tables of images, read alike; what is wrong is named."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.errors import InputError
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.images.labelled import read_image

LIMITS = Limits("train", "test", None, None)


def read(place: Path, limits: Limits = LIMITS) -> ClassifiedSet:
    found = read_set(SetConfig(labelled=str(place)), "set", limits)
    assert isinstance(found, ClassifiedSet)
    return found


def rows_of(digits: ClassifiedSet) -> list[dict[str, str]]:
    return [
        {"path": digits.shown(path), "label": digits.classes[label], "split": name}
        for split, name in ((digits.bank, "train"), (digits.queries, "test"))
        for path, label in zip(split.paths, split.labels, strict=True)
    ]


def written(rows: list[dict[str, str]], path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_is_read_as_its_folders_are(labelled: Path, digits: ClassifiedSet, ending: str, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(labelled, root)
    rows = rows_of(digits)[::-1]  # the order of the rows does not matter
    found = read(written(rows, root / f"labels.{ending}"))
    assert found.classes == digits.classes
    for one, other in ((found.bank, digits.bank), (found.queries, digits.queries)):
        assert one.labels.tolist() == other.labels.tolist()
        assert [path.name for path in one.paths] == [path.name for path in other.paths]
    assert found.sha256 == digits.sha256
    assert len(read(root / f"labels.{ending}", Limits("train", "test", 50, 20)).bank) == 50


def test_numbers_are_names_of_classes_too(labelled: Path, digits: ClassifiedSet, tmp_path: Path) -> None:
    rows = [row | {"path": str(labelled / row["path"]), "label": f"00{row['label'][-1]}"} for row in rows_of(digits)]
    assert read(written(rows, tmp_path / "labels.csv")).classes[:2] == ("000", "001")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [{"path": row["path"], "split": row["split"]} for row in rows], "lacks the column 'label'"),
        (lambda rows: [row for row in rows if row["split"] == "train"], "no image of the split test"),
        (lambda rows: [*rows, rows[-1] | {"label": "owl"}], "classes that the other split lacks"),
        (lambda rows: [*rows, rows[-1] | {"path": "nowhere.png"}], "are not there"),
        (lambda rows: [*rows, rows[-1] | {"label": ""}], "is not whole"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(  # type: ignore[no-untyped-def]
    labelled: Path, digits: ClassifiedSet, tmp_path: Path, change, said: str
) -> None:
    rows = change([row | {"path": str(labelled / row["path"])} for row in rows_of(digits)])
    with pytest.raises(InputError, match=said) as raised:
        read(written(rows, tmp_path / "labels.csv"))
    assert "labels.csv" in str(raised.value)


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no"):
        read(tmp_path / "labels.parquet")
    (tmp_path / "labels.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="cannot be read as a table"):
        read(tmp_path / "labels.parquet")


def test_a_class_of_one_image_is_said_and_of_nothing_else_refused(
    labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(labelled, root)
    for path in sorted((root / "train" / "digit 4").iterdir())[1:]:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        read(root)
    assert "one image alone of 1 of its 10 classes (digit 4)" in caplog.text
    for folder in sorted((root / "train").iterdir()):
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()
    with pytest.raises(InputError, match="too little to measure with"):
        read(root)


def test_a_link_that_leads_nowhere_is_named(labelled: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(labelled, root)
    (root / "test" / "digit 1" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (gone,) = [path for path in read(root).queries.paths if path.name == "gone.png"]
    with pytest.raises(InputError, match=r"gone\.png cannot be used.*\n.*No such file"):
        read_image(gone)


@pytest.mark.parametrize("name", ["NA", "null", "nan", "None"])
def test_a_class_may_be_called_as_others_call_nothing(labelled: Path, tmp_path: Path, name: str) -> None:
    table = tmp_path / "labels.csv"
    rows = [
        (path, name if path.parent.name == "digit 1" else path.parent.name, path.relative_to(labelled).parts[0])
        for path in sorted(labelled.rglob("*.png"))
    ]
    table.write_text("path,label,split\n" + "".join(f"{path},{label},{split}\n" for path, label, split in rows))
    assert name in read(table).classes


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label,split,label\na.png,x,train,y\n")
    with pytest.raises(InputError, match="has the column 'label' 2 times"):
        read(table)


def test_an_empty_split_and_classes_that_only_the_queries_have_are_refused(labelled: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(labelled / "train", root / "train")
    (root / "test" / "digit 1").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no image"):
        read(root)
    (root / "test" / "owl").mkdir()
    with pytest.raises(InputError, match="classes that the other split lacks"):
        read(root)


def test_an_image_of_two_labels_and_a_table_of_another_encoding_are_refused(labelled: Path, tmp_path: Path) -> None:
    images = sorted((labelled / "train").rglob("*.png"))[:2]
    rows = [{"path": str(image), "label": "a", "split": "train"} for image in images]
    twice = written([*rows, rows[0] | {"label": "b"}, rows[1] | {"split": "test"}], tmp_path / "twice.csv")
    with pytest.raises(InputError, match="two labels in one split") as raised:
        read(twice)
    assert "a and b" in (raised.value.found or "")
    (tmp_path / "utf16.csv").write_bytes(twice.read_text().encode("utf-16"))
    with pytest.raises(InputError, match="cannot be read as a table") as raised:
        read(tmp_path / "utf16.csv")
    assert "UTF-8" in (raised.value.expected or "")
    (tmp_path / "empty.csv").write_text("path,label,split\n")
    with pytest.raises(InputError, match="no image of the split train") as raised:
        read(tmp_path / "empty.csv")
    assert raised.value.action == "write a row for each image"
