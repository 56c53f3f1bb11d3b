"""A trained backbone on Fashion-MNIST's official split: `python benchmarks/fashion_mnist.py`, after `make fashion`.

`make fashion` measures on a bank of 10,000 labelled images that the network never saw. Published figures take all
60,000 training images as the bank and the 10,000 test images as queries; this script does that, for raw pixels, a
randomly initialised network of the same shape, and the trained one, by the evaluation stage's own probes.

Prints kNN (k chosen on the bank) and linear accuracy; the last line is JSON with both for each row, in percent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Table, command_line, finish
from torch import Tensor

from dinomill.evaluation.config import RandomConfig
from dinomill.evaluation.logistic import probe
from dinomill.evaluation.networks import random_backbone, random_shape
from dinomill.evaluation.protocols.config import KnnConfig, LinearProbeConfig
from dinomill.evaluation.protocols.knn import choose_k
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformerConfig, save_backbone
from dinomill.sample.fashion_mnist import fetch_full, read_split
from dinomill.serving.predictor import Predictor
from dinomill.vectors.knn import knn_predict

SHIPPED = Path(__file__).parents[1] / "data" / "00_shipped" / "fashion_mnist"


def measure_rows(model: Path, source: Path, first: int | None) -> dict[str, dict[str, float]]:
    """KNN and linear accuracy of the three rows, in percent, on the first images of each split; None: on all."""
    (bank, bank_labels), (queries, query_labels) = (
        tuple(part[:first] for part in read_split(source, split)) for split in ("train", "t10k")
    )
    labels, truth = (torch.from_numpy(values.astype(np.int64)) for values in (bank_labels, query_labels))
    neighbours = KnnConfig(ks=(5, 10, 20, 50))

    trained = Predictor(model)
    mean, std = trained.preprocessing.mean[0], trained.preprocessing.std[0]
    random = random_backbone(random_shape(trained.model.config, RandomConfig()), seed=0)
    rows: dict[str, Callable[[Tensor], Tensor]] = {
        "raw pixels": lambda batch: batch.flatten(1),
        "random initialisation": Predictor(random, preprocessing=trained.preprocessing).embed_batch,
        "trained": trained.embed_batch,
    }
    figures = {}
    table = Table("kNN", "k", "linear")
    for name, embed in rows.items():

        def features(images: np.ndarray[Any, Any], embed: Callable[[Tensor], Tensor] = embed) -> Tensor:
            normalised = torch.tensor(images[:, None]).float().div(255).sub(mean).div(std)
            return torch.cat([embed(batch) for batch in torch.split(normalised, 500)])

        of_bank, of_queries = features(bank), features(queries)
        choices = choose_k(of_bank, labels, neighbours, seed=0)
        k = max(choices, key=lambda k: choices[k])
        voted = knn_predict(of_queries, of_bank, labels, ks=[k], temperature=neighbours.temperature)[k]
        said = probe(of_bank, labels, of_queries, LinearProbeConfig()).predicted
        knn, linear = (100 * float((predicted == truth).double().mean()) for predicted in (voted, said))
        figures[name] = {"knn": knn, "linear": linear}
        table.row(name, f"{knn:.2f}", str(k), f"{linear:.2f}")
    return figures


def stand_in(folder: Path) -> Path:
    """An export of a small network with random weights, of the shape that Fashion-MNIST asks for."""
    config = VisionTransformerConfig(embed_dim=32, depth=1, num_heads=2, patch_size=7, image_size=28, in_channels=1)
    settings = PreprocessingConfig.square(28, (0.3,), (0.3,))
    save_backbone(folder, random_backbone(config, seed=1), settings.section())
    return folder


def main() -> None:
    parser = command_line(__doc__, "a small random network, on some of the images that the project ships")
    parser.add_argument("--model", type=Path, default=Path("data/fashion/teacher"), help="folder of an export")
    parser.add_argument("--source", type=Path, default=Path("data/work/fashion_mnist"), help="the four idx.gz files")
    arguments = parser.parse_args()
    if arguments.smoke:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure_rows(stand_in(Path(folder)), SHIPPED, first=200)
    else:
        figures = measure_rows(arguments.model, fetch_full(arguments.source), first=None)
    finish(figures, smoke=arguments.smoke)


if __name__ == "__main__":
    main()
