"""Threads that decode the next images while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextmanager
def decoders(workers: int) -> Iterator[ThreadPoolExecutor | None]:
    """So many of them, or None for none."""
    if not workers:
        yield None
        return
    with ThreadPoolExecutor(workers) as pool_:
        yield pool_


def ahead(
    items: Iterable[Item], start: Callable[[Item], Callable[[], Made]], depth: int
) -> Iterator[Callable[[], Made]]:
    """Start work on items, at most ``depth`` of them before the first is asked for."""
    waiting: list[Callable[[], Made]] = []
    for item in items:
        waiting.append(start(item))
        if len(waiting) >= depth:
            yield waiting.pop(0)
    yield from waiting
