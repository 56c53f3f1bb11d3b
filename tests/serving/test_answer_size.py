from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinomill.features.probe import PROBE, Probe
from dinomill.serving.answer_size import AnswerSize
from dinomill.serving.answers import as_json
from dinomill.serving.predictor import Predictor
from dinomill.serving.views import VIEWS, Index, View


@pytest.fixture
def full(backbone: Path, tmp_path: Path) -> Path:
    """A backbone with a probe of many classes, and an index with pictures."""
    for path in backbone.iterdir():
        (tmp_path / path.name).symlink_to(path)
    chance = np.random.default_rng(0)
    weight = chance.normal(size=(3000, 64)).astype(np.float32)
    classes = tuple(f"a class of a long name, {number} \u00fc" for number in range(3000))
    Probe(weight, np.zeros(3000, np.float32), classes).save(tmp_path / PROBE)
    rows = [
        {"path": f"{number}.jpg", "sha256": "0" * 64, "cluster": 1, "thumbnail": "x" * 9000} for number in range(40)
    ]
    Index.build(chance.normal(size=(40, 64)).astype(np.float32), rows).save(tmp_path)
    return tmp_path


def _sent(seen: Any) -> int:
    return len(json.dumps(as_json(seen), separators=(",", ":")).encode())


@pytest.mark.parametrize("views", [*((view,) for view in VIEWS), VIEWS], ids=str)
def test_no_answer_is_larger_than_was_reckoned(full: Path, photographs: list[bytes], views: tuple[View, ...]) -> None:
    predictor = Predictor(full)
    viewer = predictor.viewer
    size = AnswerSize(predictor.features.grid, predictor.features.dim, predictor.embed_dim, viewer.probe, viewer.index)
    sent = max(_sent(seen) for seen in predictor.see(photographs[:4], views))
    assert sent <= size(views) <= size.largest
    if views != ("pca",):  # a picture may be made small
        assert size(views) < 1.6 * sent + 2000 or "pca" in views
