"""Which backend to serve with: the fastest on this machine whose embeddings are the model's, as near as asked for."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinomill.arrays import Floats, Rows
from dinomill.errors import MachineError
from dinomill.serving.backends.choice import EAGER, Backend, every_backend, why_not
from dinomill.serving.backends.config import BackendConfig
from dinomill.serving.backends.measure import Specification, measure
from dinomill.serving.backends.measured import Measured

log = logging.getLogger(__name__)

_NEIGHBOURS = 10


class Labelled(NamedTuple):
    """Images on which it can be told whether a nearest neighbour is right."""

    images: Floats  # [M, C, S, S], preprocessed
    labels: Sequence[str]


class Selected(NamedTuple):
    """The choice and what it was made from."""

    backend: Backend
    table: tuple[Measured, ...]
    left_out: dict[str, str]  # backend: why it was not measured


def select(
    folder: Path,
    images: Floats,
    programs: Path,
    config: BackendConfig,
    *,
    threads: int,
    batch_size: int,
    labelled: Labelled | None = None,
    keep: bool = False,
) -> Selected:
    """Measure what is installed, and choose.

    Args:
        folder: Of the exported backbone.
        images: ``[N, C, S, S]``, preprocessed curated images.
        programs: Where the programs are written; the chosen one's stay there alone.
        config: What is tried, and the bounds.
        threads: Of the CPU.
        batch_size: Requests that are computed together at most.
        labelled: Further images, with labels, where there are some; never those that models are scored on.
        keep: Leave the programs of all backends there, for who wants to compare them.

    Raises:
        MachineError: When the backend that was asked for cannot be used or does not agree with the model.
    """
    from dinomill.serving.backends.programs import write_programs

    if config.choice == EAGER:
        return Selected(EAGER, (), {})
    tried, left_out = _candidates(config)
    if len(tried) > 1:
        log.info("%d backends are measured, some seconds each: the fastest that agrees is packaged.", len(tried))
    # Every other image says the ranges for 8 bits, and all of them whether they were right.
    write_programs(folder, programs, tried, images[: max(len(images) // 2, 1)])
    table: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="dinomill-backends-") as name:
        np.save(Path(name) / "images.npy", images if labelled is None else np.concatenate([images, labelled.images]))
        own: Floats | None = None
        for number, backend in enumerate(tried, 1):
            told = Specification(
                folder=folder,
                programs=programs,
                backend=backend,
                images=Path(name) / "images.npy",
                threads=threads,
                batch_size=batch_size,
                clients=config.clients,
                seconds=config.seconds,
            )
            try:
                found, vectors = measure(told, Path(name))
            except MachineError as error:
                if backend == EAGER:
                    raise
                left_out[str(backend)] = str(error.found or error)
                log.info("%d of %d: %s failed: %s", number, len(tried), backend, left_out[str(backend)])
                continue
            own = vectors if own is None else own  # the first is the model itself
            row = _judged(found, vectors, own, config, () if labelled is None else labelled.labels)
            table.append(row)
            rate, refused = row.images_per_cpu_second, f"; refused: {row.refused}" if row.refused else ""
            log.info("%d of %d: %s, %.1f images a CPU-second%s", number, len(tried), backend, rate, refused)
    chosen = _choose(table, config, left_out)
    for path in programs.iterdir():
        if path.name not in chosen.files and not keep:
            path.unlink()
    return Selected(chosen, tuple(table), left_out)


def _candidates(config: BackendConfig) -> tuple[list[Backend], dict[str, str]]:
    tried, left_out = [EAGER], {}
    wanted = (
        [config.choice]
        if isinstance(config.choice, Backend)
        else [one for one in every_backend() if one.runtime in config.candidates and one.precision in config.precisions]
    )
    for backend in wanted:
        reason = why_not(backend)
        if reason is not None:
            left_out[str(backend)] = reason
        elif backend != EAGER:
            tried.append(backend)
    return tried, left_out


def _judged(found: Measured, vectors: Floats, own: Floats, config: BackendConfig, labels: Sequence[str]) -> Measured:
    images = len(own) - len(labels)  # those with labels follow
    cosine, neighbours = agreement(vectors[:images], own[:images])
    knn, best = knn_accuracy(vectors[images:], labels), knn_accuracy(own[images:], labels)
    loss = None if knn is None or best is None else round(best - knn, 4)
    refused = None
    if not cosine >= config.min_cosine:
        refused = f"cosine {cosine:.4f} for the worst image, and {config.min_cosine} is asked for"
    elif not neighbours >= config.min_neighbours:
        refused = (
            f"{neighbours:.1%} of the nearest neighbours are the model's, and {config.min_neighbours:.0%} is asked"
        )
    elif loss is not None and config.max_knn_loss is not None and loss > config.max_knn_loss:
        refused = (
            f"kNN {knn:.1%} of {len(labels)} labelled images, and the model's own {best:.1%}: {loss:.1%} less, and "
            f"{config.max_knn_loss:.1%} are allowed"
        )
    elif found.cold_start_cpu > config.max_cold_start:
        refused = f"{found.cold_start_cpu:.0f} CPU-s to the first embedding, and {config.max_cold_start:g} are allowed"
    figures = {"min_cosine": round(cosine, 6), "neighbours": round(neighbours, 4), "refused": refused}
    told = {"knn": knn, "knn_loss": loss, "knn_images": len(labels) if knn is not None else 0}
    return found.model_copy(update=figures | told)


def _choose(table: Sequence[Measured], config: BackendConfig, left_out: dict[str, str]) -> Backend:
    if not isinstance(config.choice, Backend):
        allowed = [row for row in table if row.refused is None]
        return max(allowed, key=lambda row: row.images_per_cpu_second).backend if allowed else EAGER
    row = next((row for row in table if row.backend == config.choice), None)
    refused = left_out.get(str(config.choice), "it was not measured") if row is None else row.refused
    if refused is not None:
        raise MachineError(
            f"The backend {config.choice} cannot be packaged.",
            found=refused,
            action="set packaging.backend.choice to measured, or correct its bounds",
        )
    return config.choice


def agreement(vectors: Floats, own: Floats) -> tuple[float, float]:
    """The smallest cosine of corresponding rows, and the share of each row's ten nearest others that are the same."""
    one, other = _unit(vectors), _unit(own)
    if not np.isfinite(one).all():
        return 0.0, 0.0
    cosine = float((one * other).sum(axis=1).min())
    k = min(_NEIGHBOURS, len(own) - 1)
    if k < 1:
        return cosine, 1.0
    ours, theirs = _nearest(one, k), _nearest(other, k)
    same = [len(set(left) & set(right)) for left, right in zip(ours.tolist(), theirs.tolist(), strict=True)]
    return cosine, float(np.mean(same)) / k


def knn_accuracy(vectors: Floats, labels: Sequence[str | None] | None) -> float | None:
    """How often the nearest other image with a label has the same one; None without at least two labels."""
    if labels is None:
        return None
    known = [number for number, label in enumerate(labels) if label is not None]
    if len({labels[number] for number in known}) < 2:
        return None
    names = np.array([str(labels[number]) for number in known])
    nearest = _nearest(_unit(vectors[known]), 1)[:, 0]
    return round(float((names[nearest] == names).mean()), 4)


def _unit(vectors: Floats) -> Floats:
    rows = vectors.astype(np.float64)
    unit: Floats = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return unit


def _nearest(unit: Floats, k: int) -> Rows:
    products = unit @ unit.T
    np.fill_diagonal(products, -np.inf)
    return np.argsort(-products, axis=1, kind="stable")[:, :k]
