"""What the claims are scored by: neighbours, retrieval and a linear segmentation, by evaluation's own protocols."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from dinomill.evaluation.alone import Asked, evaluate_alone
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.statistics import Bootstrap
from dinomill.images.labelled import find_labelled
from dinomill.sample.mosaics import lay_out_mosaics

SPLITS = Limits("train", "test", None, None)
_BOOTSTRAP = Bootstrap(100, 0.95, 0)  # intervals over images are not shown: those over seeds are wider


class Scores(NamedTuple):
    """Fractions."""

    knn: float  # accuracy on the split test, with the split train as its bank
    retrieval: float  # mean average precision of test images among the train ones, the same class being the instance
    segmentation: float  # mean IoU of a linear head on patch tokens, on mosaics of photographs


class Labels(NamedTuple):
    """Where the labelled images lie, in three forms."""

    classes: Path  # <split>/<class>/<image>
    instances: Path  # a list of queries and gallery
    masks: Path  # images and masks


def labels_of(labelled: Path, work: Path, *, side: int, pictures: int) -> Labels:
    """The three forms of a labelled folder; what is made of it lies in the work folder.

    Args:
        labelled: ``<split>/<class>/<image>``.
        work: Where list and mosaics are written.
        side: Of the mosaics, pixels: that of the images which the networks were trained on.
        pictures: Mosaics to learn from; half as many are scored.
    """
    listed, masks = work / "instances.csv", work / f"mosaics-{side}-{pictures}"
    with listed.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "instance", "role"])
        for split, role in (("test", "query"), ("train", "gallery")):
            found = find_labelled(labelled, split)
            for path, label in zip(found.paths, found.labels, strict=True):
                writer.writerow([path.resolve(), found.classes[label], role])
    if not masks.is_dir():
        lay_out_mosaics(masks, train=pictures, test=pictures // 2, side=side)
    return Labels(labelled, listed, masks)


def scores_of(exported: Path, labels: Labels, cache: Path) -> Scores:
    """All scores of an exported network."""
    sets = {
        "knn": SetConfig(labelled=str(labels.classes), protocols=("knn",)),
        "map": SetConfig(labelled=str(labels.instances), kind="list", protocols=("retrieval",)),
        "miou": SetConfig(labelled=str(labels.masks), kind="masks", protocols=("segmentation",)),
    }
    found = []
    for measure, labelled in sets.items():
        asked = Asked([str(exported)], labelled, SPLITS, baselines=False, bootstrap=_BOOTSTRAP)
        (row,) = evaluate_alone(asked, cache).rows
        found.append(row.figures[measure].value)
    return Scores(*found)
