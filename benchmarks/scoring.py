"""What the claims are scored by: nearest neighbours, retrieval, and a linear segmentation, of an exported network."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dinomill import features
from dinomill.images.labelled import read_labelled
from dinomill.images.preprocess import preprocess
from dinomill.vectors.knn import knn_predict

NEIGHBOURS = 10
_BATCH = 256


class Scores(NamedTuple):
    """Fractions."""

    knn: float  # accuracy on the split test, with the split train as its bank
    retrieval: float  # mean average precision: test images among the train ones, of which those of the class are wanted
    segmentation: float | None  # mean IoU of a linear head on patch tokens


def scores_of(exported: Path, labelled: Path, scenes: Path | None) -> Scores:
    """All scores of an exported network."""
    network = features.open(exported)
    embedded, labels = {}, {}
    for split in ("train", "test"):
        known = read_labelled(labelled, split, channels=network.preprocessing.channels)
        pixels = [torch.from_numpy(preprocess(image, network.preprocessing)) for image in known.images]
        with torch.inference_mode():
            parts = [network(batch).pooled(network.pooling) for batch in torch.split(torch.stack(pixels), _BATCH)]
        embedded[split], labels[split] = torch.cat(parts).float(), torch.from_numpy(known.labels)
    return Scores(_accuracy(embedded, labels), mean_average_precision(embedded, labels), None)


def _accuracy(embedded: dict[str, Tensor], labels: dict[str, Tensor]) -> float:
    (found,) = knn_predict(embedded["test"], embedded["train"], labels["train"], ks=(NEIGHBOURS,)).values()
    return float((found == labels["test"]).double().mean())


def mean_average_precision(embedded: dict[str, Tensor], labels: dict[str, Tensor]) -> float:
    """Over the queries, of the ranking of the gallery by cosine."""
    queries, gallery = (functional.normalize(embedded[split], dim=1) for split in ("test", "train"))
    order = (queries @ gallery.T).argsort(dim=1, descending=True, stable=True)
    wanted = (labels["train"][order] == labels["test"][:, None]).double()
    precision = wanted.cumsum(dim=1) / torch.from_numpy(np.arange(1, wanted.shape[1] + 1))
    return float(((precision * wanted).sum(dim=1) / wanted.sum(dim=1)).mean())
