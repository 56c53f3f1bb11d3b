"""A trained backbone on Fashion-MNIST's official split: `python benchmarks/fashion_mnist.py`, after `make fashion`.

`make fashion` measures on a bank of 10,000 labelled images that the network never saw. Published figures take all
60,000 training images as the bank and the 10,000 test images as queries; this script does that, for raw pixels, a
randomly initialised network of the same shape, and the trained one, by the evaluation stage's own probes.

Prints kNN (k chosen on the bank) and linear accuracy; the last line is JSON with both for each row, in percent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.measure import Labels, measure
from dinomill.evaluation.networks import random_backbone, random_shape
from dinomill.sample.fashion_mnist import fetch_full, read_split
from dinomill.serving.predictor import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/fashion/teacher"), help="folder of an export")
    parser.add_argument("--source", type=Path, default=Path("data/work/fashion_mnist"), help="the four idx.gz files")
    arguments = parser.parse_args()
    folder = fetch_full(arguments.source)
    (bank, bank_labels), (queries, query_labels) = read_split(folder, "train"), read_split(folder, "t10k")
    labels = Labels(*(torch.from_numpy(values.astype(np.int64)) for values in (bank_labels, query_labels)))
    nowhere = Path("not-written")
    config = EvaluationConfig(output=nowhere, work=nowhere, knn={"ks": (5, 10, 20, 50)})

    trained = Predictor(arguments.model)
    mean, std = trained.preprocessing.mean[0], trained.preprocessing.std[0]
    random = random_backbone(random_shape(trained.model.config, config.random), seed=0)
    rows: dict[str, Callable[[Tensor], Tensor]] = {
        "raw pixels": lambda batch: batch.flatten(1),
        "random initialisation": Predictor(random, preprocessing=trained.preprocessing).embed_batch,
        "trained": trained.embed_batch,
    }
    figures = {}
    print(f"{'':24}{'kNN':>8}{'k':>5}{'linear':>9}")
    for name, embed in rows.items():

        def features(images: np.ndarray, embed: Callable[[Tensor], Tensor] = embed) -> Tensor:
            normalised = torch.tensor(images[:, None]).float().div(255).sub(mean).div(std)
            return torch.cat([embed(batch) for batch in torch.split(normalised, 500)])

        scores = measure(features(bank), features(queries), labels, config)
        knn, linear = 100 * scores.knn.value, 100 * scores.linear.value
        figures[name] = {"knn": knn, "linear": linear}
        print(f"{name:24}{knn:8.2f}{scores.k:5}{linear:9.2f}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
