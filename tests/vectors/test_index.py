from __future__ import annotations

import numpy as np
import pytest

from dinomill.vectors.index import Index, InMemory, SearchConfig, exact_similarity
from dinomill.vectors.rows import unit


@pytest.fixture(scope="module")
def vectors() -> InMemory:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((40, 32))
    return InMemory(unit(centres[generator.integers(0, 40, 6_000)] + 0.6 * generator.standard_normal((6_000, 32))))


def test_few_rows_or_few_queries_are_searched_exactly(vectors: InMemory) -> None:
    rows = np.arange(6_000)
    assert Index(vectors, rows, SearchConfig()).kind == "exact"
    assert Index(vectors, rows, SearchConfig(exact_up_to=100), queries=50).kind == "exact"
    index = Index(vectors, rows[::2], SearchConfig(exact_up_to=100), queries=50)
    found = index.search(vectors.take(np.array([10, 11])), 3)
    assert found.row[0, 0] == 10 and found.row[1, 0] != 11
    assert (found.row % 2 == 0).all()
    assert index.report(3).recall == 1.0


@pytest.mark.parametrize(
    ("compress_above", "code"), [(20_000_000, "SQfp16"), pytest.param(1_000, "PQ8", marks=pytest.mark.slow)]
)
def test_an_index_says_what_it_is_and_how_much_it_finds(vectors: InMemory, compress_above: int, code: str) -> None:
    config = SearchConfig(exact_up_to=100, probes=16, compress_above=compress_above, check_queries=300)
    index = Index(vectors, np.arange(6_000), config)
    assert code in index.kind and "16 probes" in index.kind
    report = index.report(5)
    assert report.recall is not None and 0.85 < report.recall <= 1.0
    assert (report.rows, report.checked) == (6_000, 1_500)
    found = index.search(vectors.take(np.arange(200)), 5)
    truth = exact_similarity(vectors, np.repeat(np.arange(200), 5), found.row.ravel()).reshape(200, 5)
    assert np.allclose(truth, found.similarity, atol=2e-3)
    assert (np.diff(found.similarity, axis=1) <= 0).all()


def test_recall_that_is_not_measured_is_not_claimed(vectors: InMemory) -> None:
    index = Index(vectors, np.arange(6_000), SearchConfig(exact_up_to=100, check_queries=0))
    assert index.report(5).recall is None
