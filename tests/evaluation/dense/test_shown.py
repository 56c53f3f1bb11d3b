"""Pictures with truth and predictions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinomill.evaluation.dense.shown import Shown, draw_depth, draw_segmentation, small_image, small_map


@pytest.fixture
def shown() -> list[Shown]:
    random = np.random.default_rng(0)
    found = []
    for width in (40, 60):
        image = random.integers(0, 256, (40, width, 3), dtype=np.uint8)
        truth = random.integers(0, 3, (40, width)).astype(np.float32)
        truth[:5] = np.nan
        found.append(Shown(image, truth, {"raw pixels": truth[:, ::-1], "teacher": truth}))
    return found


def test_every_class_that_occurs_is_named_but_for_the_background(shown: list[Shown], tmp_path: Path) -> None:
    names = ("background", "sky", "grass", "never")
    text = draw_segmentation(tmp_path / "one.svg", shown, names, "Title").read_text()
    assert re.findall(r"<!-- (\w+) -->", text).count("sky") == 1
    assert "grass" in text and "never" not in text and "<!-- background -->" not in text
    assert text.count("<image") == 8
    again = draw_segmentation(tmp_path / "two.svg", shown, names, "Title")
    with Image.open(draw_segmentation(tmp_path / "one.png", shown, names, "Title")) as picture:
        assert picture.width > picture.height > 300
    assert len(again.read_text()) == len(text)


def test_depth_says_its_range_and_unit(shown: list[Shown], tmp_path: Path) -> None:
    text = draw_depth(tmp_path / "depth.svg", shown, "m", "Title").read_text()
    assert "0 to 2 m" in text and text.count("<image") == 8


def test_small_maps_mix_no_ids_and_lie_as_their_picture(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (700, 500)).save(path)
    image = small_image(path)
    assert image.shape[0] <= 160 and image.shape[1] / image.shape[0] == pytest.approx(1.4, abs=0.02)
    ids = np.zeros((500, 700), np.int64)
    ids[:, 350:] = 7
    found = small_map(ids, image)
    assert found.shape == image.shape[:2] and set(np.unique(found)) == {0.0, 7.0}
    assert found[:, : image.shape[1] // 2 - 1].max() == 0
