"""Lists of queries and gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinomill.errors import InputError
from dinomill.images.lists import EASY, HARD, JUNK, NOTHING, labelled_list, read_list

LINES = """path,instance,role,left,top,right,bottom
q/a.jpg,tower,query,10,0,50,40
q/b.jpg,bridge,query,,,,
g/1.jpg,tower,easy
g/2.jpg,tower,hard
g/2.jpg,bridge,junk
g/3.jpg,bridge,gallery
g/4.jpg,,gallery
g/5.jpg,bridge,both
"""


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    for name in ("q/a", "q/b", "g/1", "g/2", "g/3", "g/4", "g/5"):
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "list.csv").write_text(LINES)
    return tmp_path / "list.csv"


def test_relations_follow_instances_and_roles(listed: Path) -> None:
    found = read_list(listed)
    assert [path.name for path in found.queries] == ["a.jpg", "b.jpg", "5.jpg"]
    assert [path.name for path in found.gallery] == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert found.boxes == ((10, 0, 50, 40), None, None)
    expected = [
        [EASY, HARD, NOTHING, NOTHING, NOTHING],
        [NOTHING, JUNK, EASY, NOTHING, EASY],
        [NOTHING, JUNK, EASY, NOTHING, JUNK],  # itself is neither right nor wrong
    ]
    np.testing.assert_array_equal(found.relations, expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,instance,role", "file,instance,role", "lacks the column path"),
        ("path,instance,role", "path,instance,role,instance", "has the column 'instance' 2 times"),
        ("g/1.jpg,tower,easy", "g/1.jpg,tower,simple", "line 4: the role is unknown"),
        ("g/1.jpg,tower,easy", "g/1.jpg,,easy", "line 4: g/1.jpg has the role easy and no instance"),
        ("g/4.jpg", "g/9.jpg", "line 8: the image is not there"),
        ("10,0,50,40", "10,0,5,40", "line 2: the box is none"),
        ("10,0,50,40", "10,0,,40", "line 2: the box is none"),
        ("q/b.jpg,bridge", "q/b.jpg,castle", "1 of 3 queries have nothing to find"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(listed: Path, old: str, new: str, message: str) -> None:
    listed.write_text(LINES.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_list(listed)


def test_without_queries_there_is_nothing_to_look_up(listed: Path) -> None:
    listed.write_text("path,instance,role\ng/1.jpg,tower,easy\n")
    with pytest.raises(InputError, match="nothing to look up"):
        read_list(listed)


def test_classes_are_instances(tmp_path: Path) -> None:
    found = labelled_list([tmp_path], np.array([1]), [tmp_path] * 3, np.array([0, 1, 1]))
    np.testing.assert_array_equal(found.relations, [[NOTHING, EASY, EASY]])
