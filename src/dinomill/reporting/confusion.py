"""What is taken for what: the confusions of a model, ordered so that classes that are mixed up stand together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinomill.arrays import Figures, Rows
from dinomill.handles import EvaluationHandle
from dinomill.reporting.matrix import draw_matrix
from dinomill.reporting.names import readable
from dinomill.reporting.tables import OF_STAGE, read_result
from dinomill.scores import Measure

_MOST_CLASSES = 40  # of a matrix that can be read
_EXAMPLES = 4


@dataclass(frozen=True)
class ConfusedPair:
    """Queries of one class that were taken for another."""

    truth: str
    said: str
    count: int
    of: int  # queries of the true class
    wrong: tuple[str, ...]  # paths of some of them
    right: tuple[str, ...]  # paths of some of the other class that were recognised


@dataclass(frozen=True)
class Confusion:
    """One model's."""

    model: str
    measure: str
    svg: str
    classes: int
    shown: int  # of them, in the matrix
    wrong: int
    queries: int
    pairs: tuple[ConfusedPair, ...]


def view_confusions(evaluation: EvaluationHandle, models: Sequence[str], pairs: int) -> tuple[Confusion, ...]:
    """The confusions of some models on the labelled images, by the first measure that names classes; none without one.

    Args:
        evaluation: Its handle.
        models: Rows by their labels in evaluation's files; all are drawn in one order of classes.
        pairs: Worst pairs that are told.
    """
    path = evaluation.folder / "images.parquet"
    if not path.is_file() or len(evaluation.classes) < 2:
        return ()
    table = read_result(path, OF_STAGE.format("evaluation"))
    measure = _naming(table.column_names, models, evaluation.measures)
    if measure is None:
        return ()
    columns = {name: table[name].to_pylist() for name in table.column_names}
    said = {name: columns[f"{name}_{measure.name}"] for name in models if f"{name}_{measure.name}" in columns}
    classes = list(evaluation.classes)
    counts = {name: count(columns["label"], answers, classes) for name, answers in said.items()}
    order = seriated(np.sum([shares(one) for one in counts.values()], axis=0), _MOST_CLASSES)
    return tuple(
        _confusion(name, measure, counts[name], classes, order, worst_pairs(columns, said[name], pairs))
        for name in said
    )


def _naming(names: Sequence[str], models: Sequence[str], measures: Sequence[Measure]) -> Measure | None:
    if "label" not in names:
        return None
    return next((one for one in measures if any(f"{model}_{one.name}" in names for model in models)), None)


def count(truth: Sequence[str], said: Sequence[str], classes: Sequence[str]) -> Rows:
    """How often each class ``[row]`` was taken for each ``[column]``, ``[C, C]`` int64."""
    number = {name: index for index, name in enumerate(classes)}
    found: Rows = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(found, ([number[one] for one in truth], [number[one] for one in said]), 1)
    return found


def shares(counts: Rows) -> Figures:
    """Counts as shares of their rows."""
    found: Figures = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    return found


def seriated(confused: Figures, most: int) -> Rows:
    """Rows and columns in an order in which classes that are taken for each other are neighbours.

    Leaves of a tree of average linkage, turned so that neighbours are as alike as they can be (Bar-Joseph et al. 2001).

    Args:
        confused: ``[C, C]``, shares of the true class.
        most: Where there are more classes, so many are taken: those with most errors, by themselves or by others.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering

    errors = confused * (1 - np.eye(len(confused)))
    chosen = np.sort(np.argsort(-(errors.sum(axis=0) + errors.sum(axis=1)), kind="stable")[:most])
    if len(chosen) < 3:
        return chosen
    alike = (errors + errors.T)[np.ix_(chosen, chosen)]
    far = (alike.max() - alike)[np.triu_indices(len(chosen), 1)]
    tree = optimal_leaf_ordering(linkage(far, "average"), far)
    ordered: Rows = chosen[leaves_list(tree)]
    return ordered


def worst_pairs(columns: dict[str, list[Any]], said: Sequence[str], wanted: int) -> tuple[ConfusedPair, ...]:
    """The pairs of classes that are confused most often, with queries spread evenly over each pair's."""
    truth, paths = columns["label"], columns["path"]
    wrong: dict[tuple[str, str], list[str]] = {}
    right: dict[str, list[str]] = {}
    for path, is_so, answer in zip(paths, truth, said, strict=True):
        if is_so == answer:
            right.setdefault(is_so, []).append(path)
        else:
            wrong.setdefault((is_so, answer), []).append(path)
    worst = sorted(wrong.items(), key=lambda item: (-len(item[1]), item[0]))[:wanted]
    return tuple(
        ConfusedPair(
            pair[0], pair[1], len(found), truth.count(pair[0]), _evenly(found), _evenly(right.get(pair[1], []))
        )
        for pair, found in worst
    )


def _evenly(paths: Sequence[str]) -> tuple[str, ...]:
    rows = np.unique(np.linspace(0, len(paths) - 1, min(_EXAMPLES, len(paths))).round().astype(int))
    return tuple(paths[row] for row in rows)


def _confusion(
    model: str, measure: Measure, counts: Rows, classes: Sequence[str], order: Rows, pairs: tuple[ConfusedPair, ...]
) -> Confusion:
    wrong = int(counts.sum() - np.trace(counts))
    title = f"Confusions of the {readable(model)} by {measure.title}: " + (
        "; ".join(f"{one.truth} taken for {one.said} {one.count} of {one.of} times" for one in pairs) or "none"
    )
    names = [classes[row] for row in order]
    drawn = draw_matrix(shares(counts)[np.ix_(order, order)], names, title=title)
    return Confusion(
        readable(model), measure.title, drawn, len(classes), len(order), wrong, int(counts.sum()), pairs
    )  # fmt: skip
