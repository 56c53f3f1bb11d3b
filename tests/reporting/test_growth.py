from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dinomill.errors import InputError
from dinomill.reporting.growth import view_curated, view_labels
from dinomill.scores import Measure


def test_the_last_point_is_the_tables(run: Any) -> None:
    evaluation = run.handles.evaluation
    views = view_labels(evaluation)
    assert [view.title for view in views] == ["kNN against labelled images", "linear probe against labelled images"]
    assert [name for name, _ in views[0].legend] == ["teacher", "student nano"]
    drawn = ElementTree.fromstring(views[0].svg)
    numbers = [one.text for one in drawn.iter() if one.attrib.get("text-anchor") == "middle"]
    # Of six images a class an eighth is one, of which a probe could hold nothing out.
    assert numbers == ["20", "30", "60"]
    assert all(sentence.count("from 30 to 60 labelled images") == 1 for sentence in views[0].sentences)
    assert view_labels(evaluation.model_copy(update={"folder": Path("nowhere")})) == ()


def test_trainings_on_shares_are_shown_where_they_were_made(tmp_path: Path) -> None:
    knn = (Measure(name="knn", title="kNN"),)
    assert view_curated(None, knn, "d") == () and view_curated(tmp_path, knn, "d") == ()
    rows = [{"data": "d", "steps": 320, "images": images, "seed": seed, "knn": value} for images, seed, value in
            [(500, 0, 0.60), (500, 1, 0.62), (1000, 0, 0.66), (1000, 1, 0.65)]]  # fmt: skip
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shorter = rows[0] | {"steps": 20, "knn": 0.2}
    results.write_text(results.read_text() + json.dumps(shorter) + "\n")
    other = rows[0] | {"data": "another dataset", "knn": 0.1}
    results.write_text(results.read_text() + json.dumps(other) + "\n")
    (view,) = view_curated(tmp_path, knn, "d")
    assert view.title == "kNN against curated images" and view.legend == ()
    assert "from 500 to 1,000 curated images, +4.5 points." in view.sentences[0]
    results.write_text(json.dumps(rows[0]) + "\n")
    assert view_curated(tmp_path, knn, "d") == ()  # one point is no curve
    results.write_text('{"images": "many"}\n')
    with pytest.raises(InputError, match=r"results\.jsonl is not what benchmarks/curated_shares\.py writes"):
        view_curated(tmp_path, knn, "d")
