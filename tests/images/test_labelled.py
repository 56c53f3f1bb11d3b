from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinomill.errors import InputError
from dinomill.images.labelled import find_labelled, place_of, read_labelled, root_of
from dinomill.images.labelled_table import is_table
from dinomill.images.listing import list_items


def put(path: Path, value: int, side: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("bag", "coat", "shoe")):
        for i in range(4):
            put(tmp_path / "train" / name / "sub" / f"{i}.png", 60 * number + i)
    put(tmp_path / "test" / "coat" / "0.png", 61)
    return tmp_path


def test_images_labels_and_classes(folder: Path) -> None:
    train = read_labelled(folder, "train", channels=1)
    assert train.classes == ("bag", "coat", "shoe")
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [int(image[0, 0, 0]) // 60 for image in train.images] == train.labels.tolist()
    test = read_labelled(folder, "test", classes=train.classes)
    assert test.labels.tolist() == [1]
    assert test.images[0].shape == (12, 12, 3)
    some = read_labelled(folder, "train", limit=3)
    assert some.labels.tolist() == [0, 1, 2]


def test_errors_name_the_path(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no labelled split .*validation") as caught:
        read_labelled(folder, "validation")
    assert caught.value.found == "folders there: test, train"
    put(folder / "test" / "hat" / "0.png", 0)
    with pytest.raises(InputError, match="classes that the other split lacks"):
        read_labelled(folder, "test", classes=("bag", "coat", "shoe"))
    broken = folder / "train" / "bag" / "broken.png"
    broken.write_bytes((folder / "train/bag/sub/0.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"broken\.png cannot be used") as caught:
        read_labelled(folder, "train")
    assert caught.value.found is not None and caught.value.found.startswith("truncated")
    (folder / "empty" / "bag").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no image"):
        read_labelled(folder, "empty")


def test_a_table_is_listed_as_its_folder_is_and_curation_sees_its_images(folder: Path, tmp_path: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [path.relative_to(folder).parts for path in files]
    rows = [f"{path},{part[1]},{part[0]}\n" for path, part in zip(files, parts, strict=True)]
    table = folder / "labels.csv"
    table.write_text("path,label,split\n" + "".join(rows))
    for split in ("train", "test"):
        plain, told = find_labelled(folder, split), find_labelled(table, split)
        assert (plain.paths, plain.classes) == (told.paths, told.classes)
        assert plain.labels.tolist() == told.labels.tolist()
        assert place_of(table, split) == f"{table} (split {split})" and place_of(folder, split) == f"{folder}/{split}"
    assert root_of(table) == folder and root_of(folder) == folder
    assert len(list_items(str(table))) == len(files)
    (tmp_path / "set.csv").mkdir()  # a folder may be called so
    assert not is_table(tmp_path / "set.csv")


def test_what_is_wrong_in_a_table_is_counted_as_people_count_it(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text("path,label,split\na.png,bag,train\nb.png,,train\n")
    with pytest.raises(InputError, match=r"Line 3 of .*labels\.csv") as caught:
        find_labelled(table, "train")
    assert caught.value.found == "path b.png, label (empty), split train"
    table.write_text("path;label;split\na.png;bag;train\n")
    with pytest.raises(InputError, match="not written with commas") as caught:
        find_labelled(table, "train")
    assert caught.value.found == "semicolons between its columns"
    table.write_text("path,label,split\n" + "".join(f"{number}.png,bag,train\n" for number in range(20)))
    with pytest.raises(InputError, match="20 of 20 images"):
        find_labelled(table, "train", limit=5)
