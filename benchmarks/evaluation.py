"""kNN and linear probe against scikit-learn on the same features: `python benchmarks/evaluation.py`.

Features are drawn with the spectrum that backbones have (variance of axis i falls as i^-1, far from the origin) and
classes that overlap. scikit-learn gets every help: neighbours are searched once for all k, regularisation runs from
strong to weak with a warm start, on features centred and scaled as ours. Both stop at the tolerance at which they
are commonly used (ours: the stage's default; scikit-learn's: its default), and the losses reached are shown.

Then, at the size of a real set (`--cached`, 50,000 features of four blocks by default): the whole kNN protocol and the
paper's grid of 52 linear heads, in seconds of the clock on the threads that there are; kNN is held against FAISS' brute
force, query by query.

Prints seconds of the clock and of the processor; the last line is JSON: `knn_ratio` and `linear_ratio` (scikit-learn's over ours), `knn_agreement`
(share of equal predictions), `linear_accuracy_difference` (points, ours minus theirs, at the strength that each chose),
`knn_seconds` and `grid_seconds` (with `_cpu_`: of the processor), `faiss_differences` (queries).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from measuring import command_line, finish, timed, timed_here
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from dinomill.evaluation.logistic import fit, probe, stratified_holdout
from dinomill.evaluation.networks import Network, Pixels
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.protocols.config import KnnConfig, LinearGridConfig, LinearProbeConfig
from dinomill.evaluation.protocols.knn import Knn
from dinomill.evaluation.protocols.linear_grid import LinearGrid
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import NetworkFeatures, SplitFeatures
from dinomill.images.labelled import LabelledPaths
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.vectors.knn import knn_predict

KS = (10, 20, 100, 200)
Array = np.ndarray[Any, Any]


def draw(count: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    shared = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, dim, generator=shared)
    offset = 0.3 * torch.randn(dim, generator=shared)
    spectrum = torch.arange(1, dim + 1).float() ** -0.5
    own = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=own)
    return (0.12 * centres[labels] + torch.randn(count, dim, generator=own)) * spectrum + offset, labels


def peer_knn(bank: Tensor, labels: Tensor, queries: Tensor, classes: int) -> dict[int, Array]:
    search = NearestNeighbors(n_neighbors=KS[-1], metric="cosine", algorithm="brute").fit(bank.numpy())
    distances, rows = search.kneighbors(queries.numpy())
    weights = np.exp((1 - distances) / 0.07)
    found = labels.numpy()[rows]
    predicted = {}
    for k in KS:
        counted = np.zeros((len(queries), classes))
        np.add.at(counted, (np.arange(len(queries))[:, None], found[:, :k]), weights[:, :k])
        predicted[k] = counted.argmax(axis=1)
    return predicted


def peer_linear(bank: Tensor, labels: Tensor, queries: Tensor, config: LinearProbeConfig) -> tuple[Array, float]:
    """The same choice: fit the grid on the kept part, score the held-out part, fit all with the best."""
    held = stratified_holdout(labels, config.holdout, seed=0).numpy()
    mean = bank.mean(dim=0)
    scale = (bank - mean).square().sum(dim=1).mean().sqrt()
    inputs, targets = ((bank - mean) / scale).numpy(), labels.numpy()
    accuracy = {}
    model = LogisticRegression(max_iter=2000, warm_start=True)
    for l2 in config.l2:
        model.set_params(C=1 / (l2 * int((~held).sum())))
        model.fit(inputs[~held], targets[~held])
        accuracy[l2] = model.score(inputs[held], targets[held])
    best = max(accuracy, key=lambda l2: accuracy[l2])
    final = LogisticRegression(C=1 / (best * len(targets)), max_iter=2000).fit(inputs, targets)
    return final.predict(((queries - mean) / scale).numpy()), best


def losses(bank: Tensor, labels: Tensor, l2: float, config: LinearProbeConfig, classes: int) -> tuple[float, float]:
    """The objective that each reaches at one strength: speed would be worthless without it."""
    mean = bank.mean(dim=0)
    inputs = ((bank - mean) / (bank - mean).square().sum(dim=1).mean().sqrt()).numpy()
    model = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=2000).fit(inputs, labels.numpy())
    likelihood = model.predict_log_proba(inputs)[np.arange(len(labels)), labels.numpy()]
    theirs = -likelihood.mean() + l2 / 2 * np.square(model.coef_).sum()
    return float(fit(bank, labels, classes, [l2], config).loss[0]), float(theirs)


def cached(count: int, queries: int, dim: int, classes: int) -> tuple[NetworkFeatures, ClassifiedSet]:
    """Features of four blocks as they are kept; the earlier blocks know less of the class."""
    parts = {}
    for name, rows, seed in (("bank", count, 1), ("queries", queries, 2)):
        last, labels = draw(rows, dim, classes, seed)
        noise = torch.Generator().manual_seed(10 + seed)
        blocks = [last + share * torch.randn(rows, dim, generator=noise) for share in (0.9, 0.6, 0.3)]
        mean_patch = last + 0.2 * torch.randn(rows, dim, generator=noise)
        cls = torch.stack([*blocks, last], dim=1)
        split = SplitFeatures(last, mean_patch, "cls", (cls, torch.stack([*blocks, mean_patch], dim=1)))
        names = tuple(f"class {label}" for label in range(classes))
        parts[name] = (split, LabelledPaths((Path("drawn"),) * rows, labels.numpy(), names))
    settings = PreprocessingConfig()
    network = Network("drawn", "model", 0, settings, "drawn", "cls", lambda _: Pixels(14))
    (bank, of_bank), (asked, of_queries) = parts["bank"], parts["queries"]
    return NetworkFeatures(network, bank, asked), ClassifiedSet("drawn", Path(), of_bank, of_queries)


def faiss_differences(features: NetworkFeatures, data: ClassifiedSet, classes: int) -> int:
    """Queries that the brute force of FAISS answers otherwise, at any k."""
    bank, queries = (
        torch.nn.functional.normalize(split.embedding, dim=1).numpy() for split in (features.bank, features.queries)
    )
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)
    similarities, rows = index.search(queries, KS[-1])
    found = data.bank.labels[rows]
    weights = np.exp(similarities.astype(np.float64) / 0.07)
    ours = knn_predict(features.queries.embedding, features.bank.embedding, torch.from_numpy(data.bank.labels), ks=KS)
    differing = np.zeros(len(queries), dtype=bool)
    for k in KS:
        counted = np.zeros((len(queries), classes))
        np.add.at(counted, (np.arange(len(queries))[:, None], found[:, :k]), weights[:, :k])
        differing |= counted.argmax(axis=1) != ours[k].numpy()
    return int(differing.sum())


def at_size(count: int, dim: int, classes: int) -> dict[str, float]:
    """The protocols on so many cached features."""
    features, data = cached(count, max(count // 5, 1), dim, classes)
    settings = Settings(seed=0, batch_size=64, work=Path("not-written"))
    knn, spent = timed(lambda: Knn(KnnConfig()).measure(features, data, settings)["knn"])
    differing = faiss_differences(features, data, classes)
    print(
        f"{count:,} cached x {dim}, {len(data.queries):,} queries, {classes} classes, {torch.get_num_threads()} threads"
    )
    print(f"kNN protocol: {spent.wall:.1f} s ({spent.cpu:.1f} CPU-s), {100 * knn.outcomes.value:.2f}%", end="; ")
    print(f"{differing} queries answered otherwise by FAISS")
    grid, taken = timed(lambda: LinearGrid(LinearGridConfig()).measure(features, data, settings)["linear_grid"])
    print(f"the grid of {len(grid.details)} heads: {taken.wall:.1f} s ({taken.cpu:.1f} CPU-s)", end=", ")
    print(f"{100 * grid.outcomes.value:.2f}% with {dict(grid.chosen)}")
    return {
        "knn_seconds": spent.wall,
        "knn_cpu_seconds": spent.cpu,
        "faiss_differences": differing,
        "grid_seconds": taken.wall,
        "grid_cpu_seconds": taken.cpu,
    }


def main() -> None:
    parser = command_line(__doc__, "500 vectors of 32 numbers")
    parser.add_argument("--cached", type=int, default=50_000, help="features of the large part; 0 leaves it out")
    parser.add_argument("--cached-classes", type=int, default=100)
    parser.add_argument("--bank", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=20)
    given = parser.parse_args()
    if given.smoke:
        given.bank, given.queries, given.dim, given.classes = 500, 200, 32, 5
        given.cached, given.cached_classes = 300, 5
    warnings.simplefilter("ignore", ConvergenceWarning)
    bank, labels = draw(given.bank, given.dim, given.classes, seed=1)
    queries, truth = draw(given.queries, given.dim, given.classes, seed=2)
    config = LinearProbeConfig()
    # The first use of each pays for imports and thread pools.
    knn_predict(queries[:64], bank[:256], labels[:256], ks=KS)
    peer_knn(bank[:256], labels[:256], queries[:64], given.classes)
    fit(bank[:512], labels[:512], given.classes, [1e-3], config)
    LogisticRegression().fit(bank[:512].numpy(), labels[:512].numpy())

    ours_knn, ours_knn_seconds = timed_here(lambda: knn_predict(queries, bank, labels, ks=KS))
    peer_votes, peer_knn_seconds = timed_here(lambda: peer_knn(bank, labels, queries, given.classes))
    agreement = min(float((ours_knn[k].numpy() == peer_votes[k]).mean()) for k in KS)
    print(f"{given.bank:,} × {given.dim} bank, {given.queries:,} queries, {given.classes} classes")
    print(f"kNN, k {KS}: ours {ours_knn_seconds:.2f} CPU-s, scikit-learn {peer_knn_seconds:.2f}", end="; ")
    print(f"agreement {agreement:.4f}")

    ours, ours_seconds = timed_here(lambda: probe(bank, labels, queries, config))
    (peer_predicted, peer_l2), peer_seconds = timed_here(lambda: peer_linear(bank, labels, queries, config))
    ours_right = float((ours.predicted == truth).double().mean())
    peer_right = float((peer_predicted == truth.numpy()).mean())
    own_loss, peer_loss = losses(bank, labels, ours.l2, config, given.classes)
    print(f"linear probe, {len(config.l2)} strengths on {torch.get_num_threads()} threads:", end=" ")
    print(f"ours {ours_seconds:.2f} CPU-s ({100 * ours_right:.2f}% at {ours.l2:g})", end=", ")
    print(f"scikit-learn {peer_seconds:.2f} ({100 * peer_right:.2f}% at {peer_l2:g})")
    print(f"objective at {ours.l2:g}: ours {own_loss:.6f}, scikit-learn {peer_loss:.6f}")
    figures = {
        "knn_ratio": round(peer_knn_seconds / ours_knn_seconds, 2),
        "knn_agreement": agreement,
        "linear_ratio": round(peer_seconds / ours_seconds, 2),
        "linear_accuracy_difference": round(100 * (ours_right - peer_right), 3),
    }
    if given.cached:
        figures |= {
            name: round(value, 2) for name, value in at_size(given.cached, given.dim, given.cached_classes).items()
        }
    finish(figures, smoke=given.smoke)


if __name__ == "__main__":
    main()
