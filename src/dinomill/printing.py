"""What is printed stays whole: a path in a file can be copied, searched for and opened (conf/logging.yml: logs)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_UNBROKEN = 10_000  # columns


def open_console(*, stderr: bool = False, **settings: Any) -> Console:
    """A console that breaks lines for a terminal only.

    Args:
        stderr: Print to standard error.
        settings: Of rich's Console.
    """
    from rich.console import Console

    made = Console(stderr=stderr, **settings)
    if made.is_terminal or "COLUMNS" in os.environ:
        return made
    return Console(stderr=stderr, width=_UNBROKEN, **settings)
