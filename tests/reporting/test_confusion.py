from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import confusion_matrix

from dinomill.reporting.confusion import count, seriated, shares, view_confusions, worst_pairs
from dinomill.reporting.matrix import draw_matrix


def test_counts_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    classes = ["a", "b", "c", "never"]
    truth, said = (random.choice(classes[:3], 500).tolist() for _ in range(2))
    found = count(truth, said, classes)
    assert np.array_equal(found, confusion_matrix(truth, said, labels=classes))
    assert np.allclose(shares(found)[:3].sum(axis=1), 1) and shares(found)[3].sum() == 0


def test_classes_that_are_mixed_up_stand_together() -> None:
    random = np.random.default_rng(1)
    groups = random.permutation(np.repeat(np.arange(4), 5))
    confused = np.where(groups[:, None] == groups, 0.15, 0.0) + random.uniform(0, 0.01, (20, 20))
    np.fill_diagonal(confused, 1 - confused.sum(axis=1) + np.diag(confused))
    order = seriated(confused, 40)
    assert sorted(order.tolist()) == list(range(20))
    assert (np.diff(groups[order]) != 0).sum() == 3  # every group in one piece


def test_of_many_classes_those_with_most_errors_are_shown() -> None:
    confused = np.eye(100)
    for one, other in ((3, 70), (70, 3), (12, 50)):
        confused[one, one], confused[one, other] = 0.5, 0.5
    assert {3, 12, 50, 70} <= set(seriated(confused, 40).tolist())
    assert len(seriated(confused, 40)) == 40
    assert seriated(np.eye(2), 40).tolist() == [0, 1]
    assert sorted(seriated(np.eye(5), 40).tolist()) == [0, 1, 2, 3, 4]  # no error at all


def test_the_worst_pairs_are_the_largest_counts_and_examples_are_of_them() -> None:
    truth = ["cat"] * 6 + ["dog"] * 5 + ["cow"] * 2
    said = ["dog"] * 5 + ["cat"] + ["dog"] * 3 + ["cow"] * 2 + ["cow", "cat"]
    columns: dict[str, list[Any]] = {"label": truth, "path": [f"{name}/{i}.png" for i, name in enumerate(truth)]}
    first, second, third = worst_pairs(columns, said, 3)
    assert (first.truth, first.said, first.count, first.of) == ("cat", "dog", 5, 6)
    assert set(first.wrong) <= set(columns["path"][:5]) and len(first.wrong) == 4
    assert first.right == tuple(columns["path"][6:9])
    assert (second.truth, second.said, second.count) == ("dog", "cow", 2)
    assert (third.truth, third.said, third.right) == ("cow", "cat", (columns["path"][5],))


def test_cells_are_drawn_where_something_is_and_names_are_escaped() -> None:
    found = np.array([[0.9, 0.1], [0.0, 1.0]])
    drawn = ElementTree.fromstring(draw_matrix(found, ["<script>", 'a "b"'], title="what & how"))
    cells = [one for one in drawn.iter() if "cell" in one.attrib.get("class", "")]
    assert [one.attrib["class"] for one in cells] == ["cell right", "cell wrong", "cell right"]
    assert cells[0][0].text == "<script>: 90.0%"
    assert cells[1][0].text == '<script> taken for a "b": 10.0%'
    assert [one.text for one in drawn.iter() if "number" in one.attrib.get("class", "")] == ["90", "10", "100"]


def test_it_is_read_from_what_evaluation_left(run: Any) -> None:
    evaluation = run.handles.evaluation
    teacher, student = view_confusions(evaluation, ["teacher", "student-nano"], 5)
    assert (teacher.model, student.model, teacher.measure) == ("teacher", "student nano", "kNN")
    table = pq.read_table(evaluation.folder / "images.parquet").to_pylist()
    wrong = sum(row["label"] != row["teacher_knn"] for row in table)
    assert (teacher.wrong, teacher.queries) == (wrong, len(table))
    assert teacher.wrong == round((1 - evaluation.score("teacher").value("knn")) * len(table))
    assert sum(pair.count for pair in view_confusions(evaluation, ["teacher"], 999)[0].pairs) == wrong
    assert view_confusions(evaluation, ["nobody"], 5) == ()
    assert view_confusions(evaluation.model_copy(update={"folder": Path("nowhere")}), ["teacher"], 5) == ()
