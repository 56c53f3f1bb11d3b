"""Exact nearest neighbours by cosine, and the weighted vote that measures features without training anything.

The vote is that of Wu et al. 2018 as DINO and DINOv2 use it: each of the k nearest images of the bank votes for its
class with weight exp(similarity / T).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.07

# Similarities of a chunk of queries to a chunk of the bank held at once: 64 MB, which still fills a GPU.
_SIMILARITIES_AT_ONCE = 2**24
_BANK_CHUNK = 2**15


def nearest(queries: Tensor, bank: Tensor, k: int, *, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest rows of the bank for every query: exact, in memory that does not grow with either.

    Args:
        queries: ``[Q, D]``; need not be normalised.
        bank: ``[B, D]``; need not be normalised.
        k: Neighbours wanted; fewer are given when the bank is smaller.
        exclude_self: Leave row i of the bank out for query i: for queries that are the bank itself.

    Returns:
        Cosine similarities ``[Q, k]``, the highest first, and rows of the bank ``[Q, k]`` int64.
    """
    queries = functional.normalize(queries.float(), dim=1)
    bank = functional.normalize(bank.float(), dim=1)
    k = max(min(k, len(bank) - exclude_self), 0)
    if k == 0 or len(queries) == 0:
        return queries.new_empty(len(queries), k), torch.empty(
            len(queries), k, dtype=torch.int64, device=queries.device
        )
    pieces = [_nearest_chunk(part, bank, k, start if exclude_self else None) for start, part in _chunks(queries, bank)]
    return torch.cat([values for values, _ in pieces]), torch.cat([rows for _, rows in pieces])


def votes(
    similarities: Tensor, labels: Tensor, classes: int, ks: Sequence[int], *, temperature: float = TEMPERATURE
) -> dict[int, Tensor]:
    """The weighted vote of the nearest k, for each k.

    Args:
        similarities: ``[Q, K]`` of the nearest bank rows, the highest first.
        labels: ``[Q, K]`` int64: the classes of those rows.
        classes: Number of classes C.
        ks: The numbers of neighbours that vote; a k above K counts all K.
        temperature: Divides the similarities.

    Returns:
        For each k the shares ``[Q, C]`` of the vote, which sum to 1.
    """
    # exp(s / T) alone reaches e^14; the share is the same with each query's highest similarity subtracted.
    weights = torch.exp((similarities - similarities[:, :1]) / temperature)
    shares = {}
    for k in ks:
        counted = similarities.new_zeros(len(similarities), classes)
        counted.scatter_add_(1, labels[:, :k], weights[:, :k])
        shares[k] = counted / counted.sum(dim=1, keepdim=True)
    return shares


def knn_predict(
    queries: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = TEMPERATURE,
    exclude_self: bool = False,
) -> dict[int, Tensor]:
    """The class that the weighted vote gives each query.

    Args:
        queries: ``[Q, D]``.
        bank: ``[B, D]``.
        bank_labels: ``[B]`` int64.
        ks: Numbers of neighbours; those above the size of the bank become that size.
        temperature: Of the vote.
        exclude_self: The queries are the bank, and none may vote for itself (leave-one-out).

    Returns:
        For each k, clipped, the predicted classes ``[Q]`` int64.
    """
    clipped = sorted({min(k, len(bank) - exclude_self) for k in ks})
    if not clipped or clipped[0] < 1:
        raise ValueError(f"{len(bank)} images in the bank are too few for neighbours")
    similarities, rows = nearest(queries, bank, clipped[-1], exclude_self=exclude_self)
    classes = int(bank_labels.max()) + 1
    shares = votes(similarities, bank_labels[rows], classes, clipped, temperature=temperature)
    return {k: share.argmax(dim=1) for k, share in shares.items()}


def knn_accuracy(
    queries: Tensor,
    query_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = TEMPERATURE,
) -> dict[int, float]:
    """The share of queries that the weighted vote classifies rightly, for each k (clipped to the bank's size)."""
    predicted = knn_predict(queries, bank, bank_labels, ks=ks, temperature=temperature)
    return {k: float((classes == query_labels).float().mean()) for k, classes in predicted.items()}


def _chunks(queries: Tensor, bank: Tensor) -> Iterator[tuple[int, Tensor]]:
    rows = max(_SIMILARITIES_AT_ONCE // min(len(bank), _BANK_CHUNK), 1)
    for start in range(0, len(queries), rows):
        yield start, queries[start : start + rows]


def _nearest_chunk(queries: Tensor, bank: Tensor, k: int, first_self: int | None) -> tuple[Tensor, Tensor]:
    """The nearest rows for a few queries, keeping the best k while the bank passes by in pieces."""
    best_values = queries.new_empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), _BANK_CHUNK):
        similarities = queries @ bank[start : start + _BANK_CHUNK].T
        if first_self is not None:
            own = torch.arange(len(queries), device=queries.device) + first_self - start
            here = (own >= 0) & (own < similarities.shape[1])
            similarities[here, own[here]] = -torch.inf
        values, rows = similarities.topk(min(k, similarities.shape[1]), dim=1)
        values, rows = torch.cat([best_values, values], dim=1), torch.cat([best_rows, rows + start], dim=1)
        best_values, order = values.topk(min(k, values.shape[1]), dim=1)
        best_rows = rows.gather(1, order)
    return best_values, best_rows
