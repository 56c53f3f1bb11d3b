"""Numbers of neighbours, in configurations. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def _sorted(values: tuple[int, ...]) -> tuple[int, ...]:
    if min(values, default=1) < 1:
        raise ValueError("every k must be at least 1")
    return tuple(sorted(set(values)))


Ks = Annotated[tuple[int, ...], AfterValidator(_sorted)]
