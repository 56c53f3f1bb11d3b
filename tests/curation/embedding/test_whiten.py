from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dinomill.curation.embedding.embed import EmbeddingConfig, Embeddings, embed_files
from dinomill.curation.embedding.embedders import EmbedderConfig
from dinomill.curation.embedding.whiten import fit
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.execution.tasks import ExecutionConfig


def _cone(rows: int) -> np.ndarray[Any, Any]:
    """Features as of a classifier: a common direction, six that vary much and say nothing, two that say what it is."""
    generator = np.random.default_rng(0)
    kind = generator.integers(0, 2, (rows, 2)) * 2 - 1
    spread = generator.standard_normal((rows, 6)) * 10
    noise = generator.standard_normal((rows, 12)) * 0.05
    return np.concatenate([np.full((rows, 1), 30.0), spread, kind, noise], axis=1).astype(np.float32)


def _nearest_is_of_the_same_kind(features: np.ndarray[Any, Any], kind: np.ndarray[Any, Any]) -> float:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -1)
    return float((kind[alike.argmax(axis=1)] == kind).all(axis=1).mean())


def test_what_sets_images_apart_counts_more() -> None:
    features = _cone(2000)
    kind = features[:, 7:9]
    whitening = fit(lambda rows: features[rows], len(features), 0.001)
    assert _nearest_is_of_the_same_kind(features, kind) < 0.6
    assert _nearest_is_of_the_same_kind(whitening(features), kind) > 0.95
    np.testing.assert_allclose(np.linalg.norm(whitening(features), axis=1), 1, rtol=1e-5)


def test_fewer_rows_than_numbers_are_no_error() -> None:
    features = _cone(5)
    assert np.isfinite(fit(lambda rows: features[rows], 5, 0.01)(features)).all()


def test_whitened_shards_are_the_same_whatever_the_tasks(planted: Any, tmp_path: Path) -> None:
    inline = ExecutionConfig(executor="inline")
    room: dict[str, Any] = {"work": tmp_path / "work", "execution": inline}
    files = scan({"pool": [str(planted.pool)]}, ScanConfig(), folder=tmp_path / "scan", **room)
    embedder = EmbedderConfig(image_size=32, precision="float32")
    found = []
    for size in (128, 50):
        config = EmbeddingConfig(embedder=embedder, images_per_task=size, whiten=0.01)
        handle = embed_files(files, config, folder=tmp_path / str(size), cache=tmp_path / f"c{size}", **room)
        rows = Embeddings(handle.shards)
        found.append(rows.stored(np.arange(len(rows))))
        assert len(handle.shards) == -(-len(rows) // size)
    assert found[0].tobytes() == found[1].tobytes()
    assert abs(float(found[0].mean())) < 0.01
    plain = embed_files(files, EmbeddingConfig(embedder=embedder), folder=tmp_path / "plain", **room)
    assert plain.made_of != handle.made_of
