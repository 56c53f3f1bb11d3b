"""How far a probe is, where it takes long enough for somebody to wonder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dinomill.execution.progress import progress

# Multiplications of the whole work below which no bar is drawn: some seconds of one core. Evaluation fits hundreds of
# small probes, and a bar for each would only flicker.
_LONG = 2e11


@contextmanager
def working(what: str, total: int, unit: str, *, each: int) -> Iterator[Callable[[int], None]]:
    """Show how far a probe is, or nothing of a short one.

    Args:
        what: Is done.
        total: Steps at most.
        unit: What is counted.
        each: Multiplications of a step.
    """
    if each * total < _LONG:
        yield lambda _: None
        return
    with progress(f"evaluation: {what}", total, unit) as bar:
        yield bar.advance
