"""A progress bar on stderr: live on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_SECONDS_BETWEEN_LINES = 15.0


class Progress(Protocol):
    """What long work reports to."""

    def advance(self, amount: int) -> None:
        """Say that ``amount`` more units are done."""


class _Lines:
    """One line when work starts to take long, then one every quarter of a minute."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = 0
        self._start = self._said = time.monotonic()

    def advance(self, amount: int) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_LINES and self._done < self._total:
            self._said = now
            rate = self._done / (now - self._start)
            left = (self._total - self._done) / rate if rate else float("inf")
            how_far = f"{self._done:,} of {self._total:,} {self._unit}"
            fast = f", {rate:,.1f}/s" if rate >= 0.5 else ""  # of few long parts no rate says anything
            print(f"{self._name}: {how_far}{fast}, {left:,.0f} s left", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance


@contextmanager
def progress(name: str, total: int, unit: str = "images") -> Iterator[Progress]:
    """Show how far some work is.

    Args:
        name: What is being done, in a few words: ``curation: scan``.
        total: Units of work in all.
        unit: What is counted, in the plural.
    """
    if not sys.stderr.isatty():
        yield _Lines(name, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total, unit=unit)
        yield _Bar(lambda amount: bar.advance(task, amount))
