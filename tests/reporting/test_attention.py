from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinomill.reporting.attention import has_attention, heat, view_attention


def test_more_attention_is_brighter() -> None:
    values = np.linspace(0.2, 0.7, 256).reshape(16, 16)
    light = heat(values).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light.ravel()) >= 0).all() and light[0, 0] < 5 and light[-1, -1] > 240
    assert heat(np.full((2, 2), 0.3)).shape == (2, 2, 3)  # nothing stands out


def test_maps_are_of_the_images_that_are_shown(run: Any, tmp_path: Path) -> None:
    evaluation = run.handles.evaluation
    rows = np.array([0, 3, 9])
    maps = view_attention(evaluation, "teacher", rows)
    assert maps is not None and len(maps.means) == 3
    kept = np.load(evaluation.folder / "attention" / "teacher.npy").astype(float)
    assert kept.shape[0] == 10 and kept.shape[2:] == (4, 4)
    assert [len(heads) for heads in maps.heads] == [kept.shape[1]] * 3
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(maps.means[1].split(",", 1)[1]))))
    assert np.array_equal(drawn, heat(kept[3].mean(axis=0)))
    assert 0 < maps.share < 1
    assert view_attention(evaluation, "pixels", rows) is None


def test_a_convolutional_network_is_told_by_its_configuration(run: Any, tmp_path: Path) -> None:
    assert has_attention(run.handles.teacher)
    (tmp_path / "config.json").write_text(json.dumps({"model": {"kind": "convnext"}}))
    assert not has_attention(run.handles.teacher.model_copy(update={"folder": tmp_path}))
