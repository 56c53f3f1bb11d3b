"""Changes of images: what each does, and that it does the same every time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dinomill.evaluation.changes import Change, copies, corruptions, moves, shift

ALL = [
    change
    for kinds in (corruptions((1, 3, 5)), moves((1, 2), (0.8, 1.25), (10, 20)), copies(0.5, 2, 30))
    for changes in kinds.values()
    for change in changes
]


@pytest.fixture(scope="module")
def picture(photographs: list[bytes]) -> np.ndarray:
    with Image.open(io.BytesIO(photographs[0])) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("change", ALL, ids=lambda change: change.name)
def test_a_change_depends_on_pixels_and_row_alone(change: Change, picture: np.ndarray) -> None:
    once, twice = change(picture, 3), change(picture, 3)
    np.testing.assert_array_equal(once, twice)
    assert once.dtype == np.uint8 and not np.array_equal(once, picture)
    cropped = change.name == "copy_crop"
    assert once.shape == picture.shape or cropped
    grey = change(picture[..., :1], 3)
    assert grey.ndim == 3 and grey.shape[2] == 1
    assert change(np.repeat(picture[..., :1], 5, axis=2), 3).shape[2] == 5


def test_names_and_identities_are_unique() -> None:
    assert len({change.name for change in ALL}) == len({change.identity for change in ALL}) == len(ALL)


def test_severities_rise(picture: np.ndarray) -> None:
    for changes in corruptions((1, 3, 5)).values():
        away = [np.abs(change(picture, 0).astype(int) - picture).mean() for change in changes]
        assert away == sorted(away) and away[0] < away[-1]


def test_a_shift_moves_by_at_most_so_many_pixels(picture: np.ndarray) -> None:
    moved = set()
    for row in range(60):
        found = Change("shift_2", 2, shift)(picture, row)
        inner = found[10:-10, 10:-10]
        offsets = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if np.array_equal(inner, picture[10 + y : picture.shape[0] - 10 + y, 10 + x : picture.shape[1] - 10 + x])
        ]
        assert len(offsets) == 1
        moved.add(offsets[0])
    assert (0, 0) not in moved and len(moved) > 12
