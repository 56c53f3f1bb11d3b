"""Environment variables that are to be as they were, whatever is done in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_environment(*names: str) -> Iterator[None]:
    """Within it these variables may be set or removed; at its end each is as it was at the beginning, or absent."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
